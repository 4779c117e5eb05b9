# FT at the last stage, second of two trainings, with the released weight of
# 500 beside cross entropy; the paraphraser was trained in the first one.
# That weight is of maps with 64 channels: the mean distance of unit vectors
# falls with the root of their length, so it counts for less here.
_base_ = ['features.py']

_preds = _base_.preds.stage3
_preds.preds_S.connector = 'translator'
_preds.preds_T.connector = 'paraphraser'
model = dict(
    distiller=dict(
        **_base_.stages.stage3,
        connectors=dict(
            # For r32x4 and r8x4, at a rate of 0.5. A pair with other widths
            # sets others.
            paraphraser=dict(
                type='ParaphraserConnector',
                in_channels=256,
                out_channels=128,
                prefix='distiller.connectors.paraphraser',
            ),
            translator=dict(
                type='TranslatorConnector', in_channels=256, out_channels=128
            ),
        ),
        distill_losses=dict(loss_ft=dict(type='FTLoss', loss_weight=500.0)),
        loss_forward_mappings=dict(loss_ft=_preds),
    )
)
