# AB, second of two trainings: the student that is active where the teacher is
# learns the labels, without the teacher. ResNet-32x4 to ResNet-8x4 on
# CIFAR-100. 73.17 in RepDistiller's table.
_base_ = ['_base_/pairs_cifar100.py']

model = dict(
    **_base_.networks.r8x4,
    data_preprocessor=_base_.preprocessor,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='work_dirs/ab_init_r32x4_r8x4_cifar100/'
        'snapshots/epoch_30.pth',
    ),
)
required_inputs = [
    dict(
        key='model.init_cfg.checkpoint',
        make='python tools/train.py configs/ab_init_r32x4_r8x4_cifar100.py',
    ),
    *_base_.required_inputs,
]
