# SD-KD: VGG-13 to VGG-8 on CIFAR-100. Not in SDD's tables; the authors' runs:
# 73.54, 73.40.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/sdd_kd.py']

# SDD's teacher_vgg.sh.
_base_.model.distiller.distill_losses.loss_sdd.scales = (1, 2)
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.vgg13,
    teacher_ckpt=_base_.teachers.vgg13.ckpt,
    student=_base_.networks.vgg8,
)
required_inputs = [_base_.teachers.vgg13.need, *_base_.required_inputs]
