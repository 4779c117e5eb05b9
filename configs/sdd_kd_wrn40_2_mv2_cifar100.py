# SD-KD: WRN-40-2 to MobileNetV2 on CIFAR-100. 69.81 in SDD's table 1; the
# authors' runs: 69.65, 69.97.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/sdd_kd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt=_base_.teachers.wrn40_2.ckpt,
    student=_base_.networks.mv2,
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
required_inputs = [_base_.teachers.wrn40_2.need, *_base_.required_inputs]
