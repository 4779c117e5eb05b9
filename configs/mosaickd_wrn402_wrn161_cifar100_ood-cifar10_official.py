# MosaicKD as the authors' program runs it, rather than as it should be. Beside
# the modes, sums and units that compat='official' stands for:
# * the last 80 images of a pass are a batch as well, beside as many synthetic
#   ones as ever, which makes 196 batches, 196,000 steps of the student and
#   39,200 updates of the others;
# * the discriminator sees the images in another order than the student;
# * the student's learning rate falls at the updates of the others, and is the
#   same in the five steps between two;
# * the student's out-of-domain images are normalised with the statistics of
#   CIFAR-10 (the deviations are known to be those; the means are inferred),
#   those of the discriminator with the teacher's.
# For one process: batches and lengths are those of each.
_base_ = ['mosaickd_wrn402_wrn161_cifar100_ood-cifar10.py']

default_hooks = dict(
    mosaic=dict(
        compat='official',
        batch_size=256,
        real_statistics=dict(
            mean=[255 * x for x in (0.4914, 0.4822, 0.4465)],
            std=[255 * x for x in (0.2023, 0.1994, 0.2010)],
        ),
        real_dataloader=dict(
            batch_size=256,
            num_workers=0,
            persistent_workers=False,
            drop_last=False,
            collate_fn=dict(type='array_collate'),
            dataset=_base_.ood_images,
            sampler=_base_.ood_sampler,
        ),
    ),
    param_scheduler=dict(
        type='IntervalParamSchedulerHook', interval=_base_.student_steps
    ),
)
train_dataloader = dict(drop_last=False)
# In updates, of which five passes have 196.
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=False, T_max=200 * 196
)
required_inputs = [
    *_base_.required_inputs,
    dict(
        _base_.need_ood,
        key='default_hooks.mosaic.real_dataloader.dataset.dataset.data_root',
    ),
]
