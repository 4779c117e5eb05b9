# DKD: ResNet-50 to ShuffleNetV1 on CIFAR-100. 77.01 in SDD's table 1.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/dkd.py']

# No settings of this row are published. Inferred: beta stays 8, that of SD-DKD
# for this pair.
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r50,
    teacher_ckpt=_base_.teachers.r50.ckpt,
    student=_base_.networks.shuv1,
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
required_inputs = [_base_.teachers.r50.need, *_base_.required_inputs]
