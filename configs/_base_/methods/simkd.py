# SimKD as in its code: the distance of the projected map to the teacher's, and
# nothing else. The student's head is the teacher's.
_base_ = ['features.py']

# In the place of the student's. For r32x4 and r8x4; a pair with other widths
# sets others.
neck = dict(type='SimKDNeck', in_channels=256, out_channels=256, factor=2)
model = dict(
    reuse_teacher_head=True,
    calculate_student_loss=False,
    distiller=dict(
        student_recorders=dict(
            projected=dict(type='ModuleOutputs', source='neck.projector')
        ),
        teacher_recorders=_base_.stages.stage3.teacher_recorders,
        distill_losses=dict(loss_simkd=dict(type='MSELoss')),
        loss_forward_mappings=dict(
            loss_simkd=dict(
                preds_S=dict(from_student=True, recorder='projected'),
                preds_T=dict(from_student=False, recorder='stage3'),
            )
        ),
    ),
)
