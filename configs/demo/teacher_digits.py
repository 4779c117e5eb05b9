# The teacher of the demo: a small ResNet on handwritten digits.
_base_ = ['_base_.py']

model = dict(**_base_.teacher, data_preprocessor=_base_.preprocessor)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='DemoDigits', split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=20)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        end=2,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR', begin=2, end=20, convert_to_iter_based=True
    ),
]
trained_on = 'handwritten digits'
