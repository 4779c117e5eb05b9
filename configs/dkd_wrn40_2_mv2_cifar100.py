# DKD: WRN-40-2 to MobileNetV2 on CIFAR-100. 69.33 in SDD's table 1.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/dkd.py']

# Inferred: that of SD-DKD for this pair.
_base_.model.distiller.distill_losses.loss_dkd.beta = 6.0
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt=_base_.teachers.wrn40_2.ckpt,
    student=_base_.networks.mv2,
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
required_inputs = [_base_.teachers.wrn40_2.need, *_base_.required_inputs]
