# NKD as in mdistiller/distillers/nkd.py of SDD's repository, where its rows
# come from: cross entropy + NKD, which grows over the first 20 epochs. The
# second term there keeps the target class. The method leaves it out:
# mask_target=True.
_base_ = ['logits.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_nkd=dict(
                type='NKDLoss',
                gamma=1.5,
                tau=1.0,
                mask_target=False,
                loss_weight=dict(type='LinearWarmup', value=1.0, end=20),
            )
        ),
        loss_forward_mappings=dict(
            loss_nkd=dict(
                **_base_.preds, gt_labels=dict(from_batch='gt_label')
            )
        ),
    ),
)
