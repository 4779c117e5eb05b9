# KD: VGG-13 to VGG-8 on CIFAR-100. 72.98 in the DKD paper.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/kd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.vgg13,
    teacher_ckpt=_base_.teachers.vgg13.ckpt,
    student=_base_.networks.vgg8,
)
required_inputs = [_base_.teachers.vgg13.need, *_base_.required_inputs]
