# CUB-200-2011 as SDD's repository feeds it: images squeezed to 256x256, random
# crops of 224 and flips in training, the centre in evaluation, ImageNet's
# statistics. The networks are those of CIFAR with the stems that the
# repository's train_origin.py gives them: a 7x7 convolution with a stride of
# 2, and in MobileNetV2 a 2x2 pooling as well; VGG stays as it is.
_base_ = ['default_runtime.py', 'networks.py', 'schedule_240e.py']

networks = {
    name: dict(backbone=backbone, head=dict(num_classes=200))
    for names, backbone in [
        (('r32x4', 'r8x4', 'mv2', 'shuv1'), dict(stem='large')),
        (
            ('r50',),
            dict(
                _delete_=True,
                type='UnpooledResNet',
                depth=50,
                zero_init_residual=False,
            ),
        ),
        # WRN and ShuffleNetV2 have no row.
        (('vgg13', 'vgg8', 'shuv2'), dict()),
        (('wrn40_2', 'wrn40_1', 'wrn16_2', 'wrn16_1'), dict()),
    ]
    for name in names
}
preprocessor = dict(
    type='BatchAugDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    augments=[
        dict(type='BatchRandomCrop', crop_size=224),
        dict(type='BatchRandomFlip', prob=0.5),
    ],
)
# Pillow averages over what it shrinks, as in the repository; OpenCV does not.
load_256 = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), backend='pillow'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    dataset=dict(
        type='CUB',
        data_root='data/CUB_200_2011',
        split='train',
        pipeline=[*load_256, dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        type='CUB',
        data_root='data/CUB_200_2011',
        split='test',
        pipeline=[
            *load_256,
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

required_inputs = [
    dict(
        key=f'{loader}.dataset.data_root',
        holds='images',
        make='mkdir -p data && curl -fL '
        'https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz '
        '| tar xz -C data',
    )
    for loader in ('train_dataloader', 'val_dataloader')
]
trained_on = 'CUB-200-2011'
