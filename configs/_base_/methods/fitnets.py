# FitNets as in RepDistiller and mdistiller: a hint at the second stage, 100
# times its mean squared error beside cross entropy, in one training. (The
# paper has two stages.)
_base_ = ['features.py']

_preds = _base_.preds.stage2
_preds.preds_S.connector = 'regressor'
model = dict(
    distiller=dict(
        **_base_.stages.stage2,
        connectors=dict(
            # For r32x4 and r8x4. A pair with other widths sets others.
            regressor=dict(
                type='ConvConnector',
                in_channels=128,
                out_channels=128,
                norm_cfg=dict(type='BN'),
                act_cfg=dict(type='ReLU'),
            )
        ),
        distill_losses=dict(loss_hint=dict(type='MSELoss', loss_weight=100.0)),
        loss_forward_mappings=dict(loss_hint=_preds),
    )
)
