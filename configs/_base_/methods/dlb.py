# DLB: every batch begins with the new images of the one before, and learns
# what the student said about them then. Temperature 3 and weight 1 are from
# recollection of the paper; the published code has no defaults. What builds on
# this gives batch_size, the new images of a batch, and the LastBatchSampler.
model = dict(
    type='DLB',
    channels_last=True,
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        distill_losses=dict(
            loss_dlb=dict(type='DLBLoss', tau=3.0, loss_weight=1.0)
        ),
        loss_forward_mappings=dict(
            loss_dlb=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                past_logits=dict(from_batch='past_logits'),
            )
        ),
    ),
)
