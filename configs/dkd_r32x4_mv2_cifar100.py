# DKD: ResNet-32x4 to MobileNetV2 on CIFAR-100. 68.98 in SDD's table 1.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/dkd.py']

# SDD's configs/cifar100/dkd/resnet32_mobinetv2.yaml.
_base_.model.distiller.distill_losses.loss_dkd.beta = 6.0
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=_base_.networks.mv2,
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]
