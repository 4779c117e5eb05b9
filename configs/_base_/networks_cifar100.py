# The networks of the KD benchmarks for CIFAR-100, and the teachers among them.
_base_ = ['cifar100.py', 'networks.py']

networks = {name: dict(head=dict(num_classes=100)) for name in _base_.networks}
teachers = {
    name: dict(
        ckpt=f'work_dirs/{stem}_cifar100/epoch_240.pth',
        # What tools/train.py looks for before it starts.
        need=dict(
            key='model.teacher_ckpt',
            make=f'python tools/train.py configs/teachers/{stem}_cifar100.py',
        ),
    )
    for name, stem in [
        ('r32x4', 'resnet32x4'),
        ('wrn40_2', 'wrn40_2'),
        ('vgg13', 'vgg13'),
        ('r50', 'resnet50'),
    ]
}
