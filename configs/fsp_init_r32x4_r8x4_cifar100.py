# FSP, first of two trainings: 30 epochs of the FSP loss alone, as in
# RepDistiller, ResNet-32x4 to ResNet-8x4 on CIFAR-100. Then
# fsp_r32x4_r8x4_cifar100.py.
_base_ = ['_base_/first_training.py', '_base_/methods/fsp.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=dict(
        _base_.networks.r8x4, type='PartlyFrozenClassifier', frozen=['head']
    ),
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SnapshotHook', epochs=(30,)),
]
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]
