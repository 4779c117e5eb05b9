# CRD: ResNet-32x4 to ResNet-8x4 on CIFAR-100. 75.51 in RepDistiller's table.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/crd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=_base_.networks.r8x4,
)
# Negatives are drawn by the labels of the whole data set.
custom_hooks = [*_base_.custom_hooks, dict(type='DatasetLabelsHook')]
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]
