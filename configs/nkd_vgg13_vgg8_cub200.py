# NKD: VGG-13 to VGG-8 on CUB-200. 67.16 in SDD's table; the authors' run:
# 67.5.
_base_ = ['_base_/pairs_cub200.py', '_base_/methods/nkd.py']

# Inferred from SDD's train_cub_*.sh: the baseline there is its SD-NKD with the
# single scale 1.
_base_.model.distiller.distill_losses.loss_nkd.update(gamma=6.0, tau=4.0)
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.vgg13,
    teacher_ckpt=_base_.teachers.vgg13.ckpt,
    student=_base_.networks.vgg8,
)
required_inputs = [_base_.teachers.vgg13.need, *_base_.required_inputs]
