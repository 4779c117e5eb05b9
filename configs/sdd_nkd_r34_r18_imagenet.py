# SD-NKD: ResNet-34 to ResNet-18 on ImageNet. 72.33 in SDD's table.
_base_ = ['_base_/imagenet_r34_r18.py', '_base_/methods/sdd_nkd.py']

# SDD's configs/imagenet/r34_r18/sdd_nkd.yaml: a warm-up of 1, which is none;
# gamma is its BETA.
_base_.model.distiller.distill_losses.loss_sdd.update(
    scales=(1, 2), loss_weight=1.0
)
_base_.model.distiller.distill_losses.loss_sdd.base_loss.update(
    gamma=0.5, tau=1.0
)
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r34,
    teacher_ckpt=_base_.teacher_ckpt,
    student=_base_.networks.r18,
)
