# OFD: the maps in front of the last ReLU of each stage, the margins of the
# teacher's last BN layer there. The published weights for CIFAR-100: 1e-3 at
# the last stage, half of the next stage's at each one before.
_base_ = ['pre_relu.py']

model = dict(
    distiller=dict(
        teacher_recorders={
            f'{name}{i}': dict(type='Parameter', source=f'{block}.bn2.{name}')
            for i, block in _base_.last_blocks_T.items()
            for name in ('weight', 'bias')
        },
        distill_losses={
            f'loss_ofd{i}': dict(
                type='OFDLoss', loss_weight=1e-3 / 2 ** (3 - i)
            )
            for i in _base_.widths
        },
        loss_forward_mappings={
            f'loss_ofd{i}': dict(
                **preds,
                bn_weight=dict(from_student=False, recorder=f'weight{i}'),
                bn_bias=dict(from_student=False, recorder=f'bias{i}'),
            )
            for i, preds in _base_.pre_relu_preds.items()
        },
    )
)
