# CIFAR-100 with its labels, as KD papers train on it.
_base_ = [
    'default_runtime.py',
    'networks_cifar100.py',
    'schedule_240e.py',
]

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    # Published: the last 16 images of an epoch are a batch as well.
    drop_last=True,
    collate_fn=dict(type='array_collate'),
    dataset=_base_.cifar_train,
    sampler=dict(type='DefaultSampler', shuffle=True),
)
required_inputs = [_base_.need_train_data, _base_.need_test_data]
trained_on = 'CIFAR-100'
