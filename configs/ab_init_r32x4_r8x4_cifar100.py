# AB, first of two trainings: 30 epochs of the AB loss alone, as in
# RepDistiller, ResNet-32x4 to ResNet-8x4 on CIFAR-100. Then
# ab_r32x4_r8x4_cifar100.py.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/ab.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=dict(
        _base_.networks.r8x4, type='PartlyFrozenClassifier', frozen=['head']
    ),
)
# The head has not learned anything yet: there is nothing to validate.
train_cfg = dict(max_epochs=30, val_interval=30)
param_scheduler = dict(milestones=[])
default_hooks = dict(checkpoint=dict(save_best=None))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SnapshotHook', epochs=(30,)),
]
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]
