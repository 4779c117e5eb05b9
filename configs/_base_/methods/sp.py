# SP as in RepDistiller and mdistiller: 3000 at the last stage.
_base_ = ['features.py']

model = dict(
    distiller=dict(
        **_base_.stages.stage3,
        distill_losses=dict(loss_sp=dict(type='SPLoss', loss_weight=3000.0)),
        loss_forward_mappings=dict(loss_sp=_base_.preds.stage3),
    )
)
