# ReviewKD: ResNet-32x4 to ResNet-8x4 on CIFAR-100.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/reviewkd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=_base_.networks.r8x4,
)
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]
