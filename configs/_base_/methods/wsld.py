# WSLD with the temperature and weight of its code for ImageNet, beside cross
# entropy. Its authors have no CIFAR-100; a third party (yzd-v/cls_KD) has a
# temperature of 4 and a weight of 2.25 there.
_base_ = ['logits.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_wsld=dict(type='WSLDLoss', tau=2.0, loss_weight=2.5)
        ),
        loss_forward_mappings=dict(
            loss_wsld=dict(
                **_base_.preds, gt_labels=dict(from_batch='gt_label')
            )
        ),
    ),
)
