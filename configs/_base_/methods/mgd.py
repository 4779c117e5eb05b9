# MGD at the last stage, with the setting of yzd-v/cls_KD for CIFAR-100:
# 1.2e-3, channels masked with a probability of 0.15.
# That is for ResNet-34 and ResNet-18, whose last map has half as many numbers:
# as a sum over the map, it counts for more here.
_base_ = ['features.py']

_preds = _base_.preds.stage3
_preds.preds_S.connector = 'generation'
model = dict(
    distiller=dict(
        **_base_.stages.stage3,
        connectors=dict(
            # For r32x4 and r8x4. A pair with other widths sets others.
            generation=dict(
                type='MGDConnector',
                in_channels=256,
                out_channels=256,
                mask_on='channel',
                mask_ratio=0.15,
            )
        ),
        distill_losses=dict(loss_mgd=dict(type='MGDLoss', loss_weight=1.2e-3)),
        loss_forward_mappings=dict(loss_mgd=_preds),
    )
)
