# DKD: WRN-40-2 to VGG-8 on CIFAR-100. 74.13 in SDD's table 1.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/dkd.py']

# No settings of this row are published. Inferred: beta stays 8, that of SD-DKD
# for this pair.
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt=_base_.teachers.wrn40_2.ckpt,
    student=_base_.networks.vgg8,
)
required_inputs = [_base_.teachers.wrn40_2.need, *_base_.required_inputs]
