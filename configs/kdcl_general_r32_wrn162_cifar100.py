# KDCL: ResNet-32 and WRN-16-2 on CIFAR-100; the target is a combination of the
# logits, whose weights are measured on images that are held out: the last
# 5,000 of the training set. Second-hand: 74.3 and 75.5 in the KDCL paper.
_base_ = ['_base_/online_cifar100.py', '_base_/methods/kdcl.py']

model = dict(
    target='general',
    data_preprocessor=dict(**_base_.preprocessor, views=2),
    students=dict(r32=_base_.networks.r32, wrn16_2=_base_.networks.wrn16_2),
)
train_dataloader = dict(dataset=dict(dataset=dict(indices=45_000)))
default_hooks = dict(
    error_covariance=dict(
        type='ErrorCovarianceHook',
        dataloader=dict(
            batch_size=500,
            num_workers=0,
            persistent_workers=False,
            collate_fn=dict(type='array_collate'),
            dataset=dict(
                type='InMemoryImages',
                dataset=dict(**_base_.cifar_train.dataset, indices=-5_000),
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
    )
)
_held_out = 'default_hooks.error_covariance.dataloader.dataset.dataset'
required_inputs = [
    *_base_.required_inputs,
    dict(
        key=f'{_held_out}.data_root',
        holds=_base_.need_train_data.holds,
        make=_base_.need_train_data.make,
    ),
]
trained_on = '45,000 images of CIFAR-100'
