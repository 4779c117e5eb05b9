# SD-KD: VGG-13 to MobileNetV2 on CIFAR-100. 68.79 in SDD's table 2; the
# authors' runs: 68.87, 68.48.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/sdd_kd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.vgg13,
    teacher_ckpt=_base_.teachers.vgg13.ckpt,
    student=_base_.networks.mv2,
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
required_inputs = [_base_.teachers.vgg13.need, *_base_.required_inputs]
