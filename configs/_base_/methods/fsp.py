# FSP, first of two trainings: the three pairs of a stage's input and output,
# nothing else. The weights of 1 are those of RepDistiller's first training;
# its option of 50 is for the second, in which its code has no FSP loss. The
# head does not learn here, and the second training starts from the snapshot at
# the end.
_base_ = ['features.py']

model = dict(
    calculate_student_loss=False,
    distiller=dict(
        student_recorders=dict(
            input1=dict(type='ModuleInputs', source='backbone.layer1'),
            **_base_.all_stages.student_recorders,
        ),
        teacher_recorders=dict(
            input1=dict(type='ModuleInputs', source='backbone.layer1'),
            **_base_.all_stages.teacher_recorders,
        ),
        distill_losses={
            f'loss_fsp{i}': dict(type='FSPLoss', loss_weight=1.0)
            for i in (1, 2, 3)
        },
        loss_forward_mappings={
            f'loss_fsp{i}': {
                f'{place}_{side}': dict(
                    from_student=side == 'S', recorder=recorder, **which
                )
                for place, recorder, which in (
                    (
                        ('bottom', 'input1', dict(data_idx=0))
                        if i == 1
                        else ('bottom', f'stage{i - 1}', dict())
                    ),
                    ('top', f'stage{i}', dict()),
                )
                for side in 'ST'
            }
            for i in (1, 2, 3)
        },
    ),
)
