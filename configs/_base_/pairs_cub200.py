# What the pairs on CUB-200-2011 share beyond data and schedule.
_base_ = ['benchmark_cub200.py']

# As in the trainer of SDD's repository.
optim_wrapper = dict(clip_grad=dict(max_norm=40))
teachers = {
    name: dict(
        ckpt=f'work_dirs/{stem}_cub200/epoch_240.pth',
        # What tools/train.py looks for before it starts.
        need=dict(
            key='model.teacher_ckpt',
            make=f'python tools/train.py configs/teachers/{stem}_cub200.py',
        ),
    )
    for name, stem in [
        ('r32x4', 'resnet32x4'),
        ('vgg13', 'vgg13'),
        ('r50', 'resnet50'),
    ]
}
