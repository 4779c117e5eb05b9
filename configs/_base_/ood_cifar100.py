# Distillation of networks for CIFAR-100 with out-of-domain images. What builds
# on this adds these images (ood/), how many make a batch, and for how long.
_base_ = ['default_runtime.py', 'networks_cifar100.py', 'distillers/kd.py']

model = dict(
    type='SingleTeacherDistill',
    data_preprocessor=_base_.preprocessor,
    calculate_student_loss=False,
    channels_last=True,
    distiller=_base_.distiller,
)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    # Unlike the authors, who make a smaller batch of the last images of a
    # pass: with as many synthetic ones as ever, it would be another mixture.
    drop_last=True,
    collate_fn=dict(type='array_collate'),
)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
# Down to 0 at the end of the run, however long it is; a step each iteration.
param_scheduler = dict(type='CosineAnnealingLR', convert_to_iter_based=True)
