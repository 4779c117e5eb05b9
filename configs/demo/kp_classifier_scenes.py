# The student, second phase: a classifier on the features it has learned.
_base_ = ['_kp_.py']

model = dict(
    _base_.network,
    type='PartlyFrozenClassifier',
    frozen=['backbone'],
    checkpoint='work_dirs/demo/kp_student/snapshots/epoch_10.pth',
    data_preprocessor=_base_.preprocessor,
)
train_cfg = dict(max_epochs=4, val_interval=4)
# The features stay where they are: the path of their weights goes on at rest,
# and there is nothing new to look at before the end.
custom_hooks = _base_.custom_hooks[:-1] + [
    dict(type='SnapshotHook', epochs=(0,))
]
required_inputs = [
    dict(
        key='model.checkpoint',
        make='python tools/train.py configs/demo/kp_student_scenes.py '
        '--work-dir work_dirs/demo/kp_student',
    ),
]
trained_on = '1,500 digits on textures'
