# What distillation taught, on images of which it is known where the class is:
# digits on textures. Teacher, baseline and student are one network, and
# baseline and student start from the same weights.
_base_ = ['../_base_/default_runtime.py']

preprocessor = dict(
    type='BatchAugDataPreprocessor', mean=[82.0] * 3, std=[48.0] * 3
)
# A ResNet-18 without its last stage; the last map is 8x8.
network = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=3,
        strides=(2, 2, 1),
        dilations=(1, 1, 1),
        out_indices=(2,),
        style='pytorch',
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
# The layer whose features are distilled and explained.
layer = 'backbone.layer3'
# Of the baseline and of both phases of the student. The teacher has more.
max_epochs = 10
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='DemoScenes', split='train', num_images=1500),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='DemoScenes', split='test', num_images=1000),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05))
# Over the whole run, whatever its length.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, convert_to_iter_based=True),
]
# No checkpoint is chosen by its accuracy on the test split.
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_best=None))
# What explaining the run needs.
custom_hooks = _base_.custom_hooks + [
    # The head learns in another phase than the features.
    dict(type='WeightDistanceHook', parameters=['backbone']),
    dict(type='SnapshotHook', epochs=(0, 1, 2, 3, 4, 6, 8, 10)),
]
