# NKD: ResNet-34 to ResNet-18 on ImageNet. 71.96 in SDD's table.
_base_ = ['_base_/imagenet_r34_r18.py', '_base_/methods/nkd.py']

# SDD's configs/imagenet/r34_r18/nkd.yaml: a warm-up of 1, which is none.
_base_.model.distiller.distill_losses.loss_nkd.loss_weight = 1.0
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r34,
    teacher_ckpt=_base_.teacher_ckpt,
    student=_base_.networks.r18,
)
