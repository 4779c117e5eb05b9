# OFD: the maps in front of the last ReLU of each stage, the margins of the
# teacher's last BN layer there. The published weights for CIFAR-100: 1e-3 at
# the last stage, half of the next stage's at each one before.
_base_ = ['features.py']

# Of r32x4 and r8x4: widths, and the last block of the teacher's stages and of
# the student's. Another pair sets others.
_widths = {1: 64, 2: 128, 3: 256}
_last_T, _last_S = 4, 0
# What goes into the ReLU is a sum: the second call of the block's ReLU.
model = dict(
    distiller=dict(
        student_recorders={
            f'pre{i}': dict(
                type='ModuleInputs', source=f'backbone.layer{i}.{_last_S}.relu'
            )
            for i in _widths
        },
        teacher_recorders={
            **{
                f'pre{i}': dict(
                    type='ModuleInputs',
                    source=f'backbone.layer{i}.{_last_T}.relu',
                )
                for i in _widths
            },
            **{
                f'{name}{i}': dict(
                    type='Parameter',
                    source=f'backbone.layer{i}.{_last_T}.bn2.{name}',
                )
                for i in _widths
                for name in ('weight', 'bias')
            },
        },
        connectors={
            f'width{i}': dict(
                type='ConvConnector',
                in_channels=width,
                out_channels=width,
                norm_cfg=dict(type='BN'),
            )
            for i, width in _widths.items()
        },
        distill_losses={
            f'loss_ofd{i}': dict(
                type='OFDLoss', loss_weight=1e-3 / 2 ** (3 - i)
            )
            for i in _widths
        },
        loss_forward_mappings={
            f'loss_ofd{i}': dict(
                preds_S=dict(
                    from_student=True,
                    recorder=f'pre{i}',
                    record_idx=1,
                    data_idx=0,
                    connector=f'width{i}',
                ),
                preds_T=dict(
                    from_student=False,
                    recorder=f'pre{i}',
                    record_idx=1,
                    data_idx=0,
                ),
                bn_weight=dict(from_student=False, recorder=f'weight{i}'),
                bn_bias=dict(from_student=False, recorder=f'bias{i}'),
            )
            for i in _widths
        },
    )
)
