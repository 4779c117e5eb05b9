# SD-KD: ResNet-32x4 to ResNet-8x4 on CIFAR-100. 76.63 in SDD's tables 6 and 7,
# 75.63 in its appendix; the authors' runs: 75.59, 75.31.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/sdd_kd.py']

# SDD's teacher_resnet32x4.sh.
_base_.model.distiller.distill_losses.loss_sdd.scales = (1, 2)
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=_base_.networks.r8x4,
)
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]
