# A teacher assistant, second of two stages: KD from the assistant,
# ResNet-20x4, to ResNet-8x4 on CIFAR-100.
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/kd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r20x4,
    teacher_ckpt='work_dirs/takd_r32x4_r20x4_cifar100/snapshots/epoch_240.pth',
    student=_base_.networks.r8x4,
)
required_inputs = [
    dict(
        key='model.teacher_ckpt',
        make='python tools/train.py configs/takd_r32x4_r20x4_cifar100.py',
    ),
    *_base_.required_inputs,
]
