# DKD with the defaults of mdistiller: cross entropy + DKD, which grows over
# the first 20 epochs. Some pairs have another beta.
_base_ = ['logits.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_dkd=dict(
                type='DKDLoss',
                alpha=1.0,
                beta=8.0,
                tau=4.0,
                loss_weight=dict(type='LinearWarmup', value=1.0, end=20),
            )
        ),
        loss_forward_mappings=dict(
            loss_dkd=dict(
                **_base_.preds, gt_labels=dict(from_batch='gt_label')
            )
        ),
    ),
)
