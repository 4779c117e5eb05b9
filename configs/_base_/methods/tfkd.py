# TF-KD by regularisation, with the loss and the setting of its code for
# ResNet-18 on CIFAR-100. The formula of the paper is official_compat=False.
model = dict(
    type='SelfDistill',
    # TFKDLoss holds the cross entropy with the labels.
    calculate_student_loss=False,
    channels_last=True,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        distill_losses=dict(
            loss_tfkd=dict(
                type='TFKDLoss',
                alpha=0.1,
                tau=20.0,
                correct_prob=0.99,
                multiplier=100.0,
                official_compat=True,
            )
        ),
        loss_forward_mappings=dict(
            loss_tfkd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                gt_labels=dict(from_batch='gt_label'),
            )
        ),
    ),
)
