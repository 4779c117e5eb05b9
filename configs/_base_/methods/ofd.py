# OFD: the maps in front of the last ReLU of each stage, the student's behind a
# 1x1 convolution with BN, the margins of the teacher's last BN layer there.
# The released weights for CIFAR-100: 1e-3 at the last stage, half of the next
# stage's at each one before. The margins are the paper's expectation for all
# channels; for those that are hardly ever negative the released code has
# another one (margin_form='released'), and its teacher normalises by batches.
_base_ = ['pre_relu.py']

model = dict(
    distiller=dict(
        teacher_recorders={
            f'{name}{i}': dict(type='Parameter', source=f'{block}.bn2.{name}')
            for i, block in _base_.last_blocks_T.items()
            for name in ('weight', 'bias')
        },
        connectors={
            f'width{i}': dict(
                type='ConvConnector',
                in_channels=width,
                out_channels=width,
                norm_cfg=dict(type='BN'),
            )
            for i, width in _base_.widths.items()
        },
        distill_losses={
            f'loss_ofd{i}': dict(
                type='OFDLoss', loss_weight=1e-3 / 2 ** (3 - i)
            )
            for i in _base_.widths
        },
        loss_forward_mappings={
            f'loss_ofd{i}': dict(
                preds_S=dict(**preds['preds_S'], connector=f'width{i}'),
                preds_T=preds['preds_T'],
                bn_weight=dict(from_student=False, recorder=f'weight{i}'),
                bn_bias=dict(from_student=False, recorder=f'bias{i}'),
            )
            for i, preds in _base_.pre_relu_preds.items()
        },
    )
)
