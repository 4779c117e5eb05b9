# The student, second phase: what comes after the layer learns your images.
_base_ = ['kp_custom_r18_folder_baseline.py']

model = dict(
    **_base_.second_phase,
    checkpoint='work_dirs/kp_custom_r18_folder_student/snapshots/epoch_150.pth',
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
        make='python tools/train.py configs/kp_custom_r18_folder_student.py',
    ),
    *_base_.required_inputs,
]
