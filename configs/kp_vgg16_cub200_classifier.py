# The student, second phase: what comes after the layer learns CUB-200-2011.
_base_ = ['kp_vgg16_cub200_baseline.py']

model = dict(
    **_base_.second_phase,
    checkpoint='work_dirs/kp_vgg16_cub200_student/snapshots/epoch_150.pth',
)
train_cfg = _base_.classifier_cfg
optim_wrapper = dict(optimizer=dict(lr=_base_.classifier_lr))
param_scheduler = _base_.classifier_scheduler
# The features stay where they are, and so does the path that they have gone.
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type='SnapshotHook', epochs=(0,)),
]
required_inputs = [
    dict(
        key='model.checkpoint',
        make='python tools/train.py configs/kp_vgg16_cub200_student.py',
    ),
    *_base_.required_inputs,
]
