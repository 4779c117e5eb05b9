# The networks of the KD benchmarks, by the short names that file names use.
# What builds on this adds the number of classes. They start as published: the
# linear layers of VGG and MobileNetV2 as mmpretrain has them, the others as
# PyTorch has them, and ResNet-50 without zeros.
networks = {
    name: dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            in_channels=channels,
            **({} if name.startswith(('vgg', 'mv2')) else dict(init_cfg=None)),
        ),
    )
    for name, channels, backbone in [
        ('r32x4', 256, dict(type='CifarResNet', depth=32, width=4)),
        ('r20x4', 256, dict(type='CifarResNet', depth=20, width=4)),
        ('r8x4', 256, dict(type='CifarResNet', depth=8, width=4)),
        ('r32', 64, dict(type='CifarResNet', depth=32)),
        *(
            (
                f'wrn{depth}_{width}',
                64 * width,
                dict(type='CifarWideResNet', depth=depth, widen_factor=width),
            )
            for depth, width in [(40, 2), (40, 1), (16, 2), (16, 1)]
        ),
        ('vgg13', 512, dict(type='CifarVGG', depth=13)),
        ('vgg8', 512, dict(type='CifarVGG', depth=8)),
        (
            'r50',
            2048,
            dict(
                type='ResNet_CIFAR',
                depth=50,
                num_stages=4,
                out_indices=(3,),
                style='pytorch',
                zero_init_residual=False,
            ),
        ),
        ('mv2', 1280, dict(type='CifarMobileNetV2', width_mult=0.5)),
        ('shuv1', 960, dict(type='CifarShuffleNetV1')),
        ('shuv2', 1024, dict(type='CifarShuffleNetV2')),
    ]
}
