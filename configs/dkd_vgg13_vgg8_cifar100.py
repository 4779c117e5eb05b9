# DKD: VGG-13 to VGG-8 on CIFAR-100. 74.68 in the DKD paper.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/dkd.py']

# mdistiller's configs/cifar100/dkd/vgg13_vgg8.yaml.
_base_.model.distiller.distill_losses.loss_dkd.beta = 6.0
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.vgg13,
    teacher_ckpt=_base_.teachers.vgg13.ckpt,
    student=_base_.networks.vgg8,
)
required_inputs = [_base_.teachers.vgg13.need, *_base_.required_inputs]
