# The student, first phase: ResNet-50 learns its teacher's features of one
# layer on objects of VOC 2012, without labels.
_base_ = ['kp_r50_voc2012_baseline.py']

model = dict(
    _delete_=True,
    **_base_.distillation,
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.model,
    teacher_ckpt='work_dirs/kp_r50_voc2012_teacher/epoch_150.pth',
    student=dict(_base_.model, **_base_.first_phase),
    student_ckpt='work_dirs/kp_r50_voc2012_baseline/snapshots/epoch_0.pth',
)
# For the teacher's accuracy. The student has no classifier yet.
train_cfg = dict(val_interval=150)
required_inputs = [
    dict(
        key='model.teacher_ckpt',
        make='python tools/train.py configs/kp_r50_voc2012_teacher.py',
    ),
    dict(
        key='model.student_ckpt',
        make='python tools/train.py configs/kp_r50_voc2012_baseline.py',
    ),
    *_base_.required_inputs,
]
trained_on = f'{_base_.trained_on} without labels'
