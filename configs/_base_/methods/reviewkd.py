# ReviewKD as in its code: the three stages and the pooled feature, 5 times the
# sum of their losses. The weight is 0 in the first epoch and grows over 20, as
# the code's min(e / 20, 1) does, whose epochs count from 0. The teacher's
# stages are taken in front of their last ReLU.
_base_ = ['features.py']

# Of r32x4 and r8x4, and the last block of the teacher's stages. Another pair
# sets others.
_widths = [64, 128, 256, 256]
_last_T = 4
_levels = {
    **{
        f'level{i}': dict(from_student=True, recorder=f'stage{i}')
        for i in (1, 2, 3)
    },
    'level4': dict(from_student=True, recorder='stage3', connector='pool'),
}
_targets = {
    **{
        f'level{i}': dict(
            from_student=False, recorder=f'pre{i}', record_idx=1, data_idx=0
        )
        for i in (1, 2, 3)
    },
    'level4': dict(from_student=False, recorder='stage3', connector='pool'),
}
model = dict(
    distiller=dict(
        student_recorders=_base_.all_stages.student_recorders,
        teacher_recorders=dict(
            **_base_.stages.stage3.teacher_recorders,
            **{
                # What goes into the ReLU is a sum: its second call.
                f'pre{i}': dict(
                    type='ModuleInputs',
                    source=f'backbone.layer{i}.{_last_T}.relu',
                )
                for i in (1, 2, 3)
            },
        ),
        connectors=dict(
            review=dict(
                type='ReviewConnector',
                in_channels=_widths,
                out_channels=_widths,
            ),
            pool=dict(type='PoolConnector', size=1),
        ),
        distill_losses={
            f'loss_{level}': dict(
                type='HCLLoss',
                loss_weight=dict(
                    type='LinearWarmup', value=5.0, begin=1, end=21
                ),
            )
            for level in _levels
        },
        loss_forward_mappings={
            f'loss_{level}': dict(
                preds_S=dict(
                    **_levels['level1'],
                    connector='review',
                    connector_inputs={
                        k: v for k, v in _levels.items() if k != 'level1'
                    },
                    connector_idx=place,
                ),
                preds_T=_targets[level],
            )
            for place, level in enumerate(_levels)
        },
    )
)
