# PS-KD: labels softened by what the student said an epoch ago. Published: the
# share of the past grows to 0.8 over the training, which is 300 epochs here.
# What builds on this gives num_samples, the size of the training set.
model = dict(
    type='PSKD',
    # PSKDLoss holds the cross entropy with the labels.
    calculate_student_loss=False,
    channels_last=True,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        distill_losses=dict(
            loss_pskd=dict(
                type='PSKDLoss',
                alpha=dict(type='LinearRamp', start=0.0, stop=0.8, end=300),
            )
        ),
        loss_forward_mappings=dict(
            loss_pskd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                past_probs=dict(from_batch='past_probs'),
                gt_labels=dict(from_batch='gt_label'),
            )
        ),
    ),
)
