# DKD: ResNet-34 to ResNet-18 on ImageNet. 71.70 in SDD's table.
_base_ = ['_base_/imagenet_r34_r18.py', '_base_/methods/dkd.py']

# mdistiller's configs/imagenet/r34_r18/dkd.yaml: a warm-up of 1, which is
# none.
_base_.model.distiller.distill_losses.loss_dkd.update(
    beta=0.5, tau=1.0, loss_weight=1.0
)
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r34,
    teacher_ckpt=_base_.teacher_ckpt,
    student=_base_.networks.r18,
)
