# PKT as in RepDistiller and mdistiller: 30000 at the pooled features.
_base_ = ['features.py']

model = dict(
    distiller=dict(
        **_base_.pooled,
        distill_losses=dict(
            loss_pkt=dict(type='PKTLoss', loss_weight=30000.0)
        ),
        loss_forward_mappings=dict(loss_pkt=_base_.pooled_preds),
    )
)
