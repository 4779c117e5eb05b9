# KD: ResNet-34 to ResNet-18 on ImageNet. 70.66 in SDD's table.
_base_ = ['_base_/imagenet_r34_r18.py', '_base_/methods/kd.py']

# mdistiller's configs/imagenet/r34_r18/kd.yaml.
_base_.model.distiller.distill_losses.loss_kl.update(tau=1.0, loss_weight=0.5)
_base_.model.student.head.loss.loss_weight = 0.5
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r34,
    teacher_ckpt=_base_.teacher_ckpt,
    student=_base_.networks.r18,
)
