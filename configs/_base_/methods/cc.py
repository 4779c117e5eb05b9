# CC, the published kernel of order 2, at the pooled features. The weight of
# 100 is that of a public re-implementation on CIFAR-10.
_base_ = ['features.py']

model = dict(
    distiller=dict(
        **_base_.pooled,
        distill_losses=dict(
            loss_cc=dict(type='CCLoss', gamma=0.4, order=2, loss_weight=100.0)
        ),
        loss_forward_mappings=dict(loss_cc=_base_.pooled_preds),
    )
)
