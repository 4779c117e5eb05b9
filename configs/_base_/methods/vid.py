# VID as in RepDistiller and mdistiller: a weight of 1 at each of the three
# stages, three 1x1 convolutions in front of it.
_base_ = ['features.py']

# Of r32x4 and r8x4, both. A pair with other widths sets others.
_widths = {1: 64, 2: 128, 3: 256}
_preds = _base_.preds
for _i in _widths:
    _preds[f'stage{_i}'].preds_S.connector = f'mean{_i}'
model = dict(
    distiller=dict(
        **_base_.all_stages,
        connectors={
            f'mean{i}': [
                dict(
                    type='ConvConnector',
                    in_channels=width,
                    out_channels=width,
                    act_cfg=act,
                )
                for act in (dict(type='ReLU'), dict(type='ReLU'), None)
            ]
            for i, width in _widths.items()
        },
        distill_losses={
            f'loss_vid{i}': dict(type='VIDLoss', num_channels=width)
            for i, width in _widths.items()
        },
        loss_forward_mappings={
            f'loss_vid{i}': _preds[f'stage{i}'] for i in _widths
        },
    )
)
