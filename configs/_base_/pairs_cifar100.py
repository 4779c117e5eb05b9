# What the pairs on CIFAR-100 share beyond data and schedule.
_base_ = ['benchmark_cifar100.py']

# The trainer of SDD's repository clips in every method, KD included; that of
# mdistiller, where most of the published KD and DKD rows come from, does not:
# --cfg-options optim_wrapper.clip_grad=None
optim_wrapper = dict(clip_grad=dict(max_norm=40))
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
