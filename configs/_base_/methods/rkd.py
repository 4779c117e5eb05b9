# RKD as in RepDistiller and mdistiller: distances 25, angles 50, pooled
# features.
_base_ = ['features.py']

model = dict(
    distiller=dict(
        **_base_.pooled,
        distill_losses=dict(
            loss_rkd=dict(
                type='RKDLoss', distance_weight=25.0, angle_weight=50.0
            )
        ),
        loss_forward_mappings=dict(loss_rkd=_base_.pooled_preds),
    )
)
