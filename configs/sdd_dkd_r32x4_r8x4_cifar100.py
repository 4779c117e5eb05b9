# SD-DKD: ResNet-32x4 to ResNet-8x4 on CIFAR-100. 76.63 in SDD's appendix; no
# run of the authors is known.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/sdd_dkd.py']

# Inferred: the scales of this pair's SD-KD.
_base_.model.distiller.distill_losses.loss_sdd.scales = (1, 2)
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=_base_.networks.r8x4,
)
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]
