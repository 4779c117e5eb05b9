# FT, second of two trainings: ResNet-32x4 to ResNet-8x4 on CIFAR-100. (72.86
# in RepDistiller's table is another formula, with the weight 200.)
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/ft.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=_base_.networks.r8x4,
    distiller=dict(
        connectors=dict(
            paraphraser=dict(
                checkpoint='work_dirs/ft_init_r32x4_r8x4_cifar100/epoch_30.pth'
            )
        )
    ),
)
required_inputs = [
    _base_.teachers.r32x4.need,
    dict(
        key='model.distiller.connectors.paraphraser.checkpoint',
        make='python tools/train.py configs/ft_init_r32x4_r8x4_cifar100.py',
    ),
    *_base_.required_inputs,
]
