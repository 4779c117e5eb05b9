# The embedded default: nothing is downloaded. Handwritten digits are the data
# that the teacher was trained on and that are lost; printed glyphs, digits
# and others, are the unlabeled heap.
_base_ = ['../_base_/default_runtime.py']

# 16x16 grey images as RGB.
preprocessor = dict(
    type='BatchAugDataPreprocessor',
    mean=[78.0, 78.0, 78.0],
    std=[86.0, 86.0, 86.0],
    augments=[dict(type='BatchRandomCrop', crop_size=16, padding=2)],
)
teacher = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=4,
        out_indices=(3,),
        style='pytorch',
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
val_dataloader = dict(
    batch_size=300,
    num_workers=0,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='DemoDigits', split='test'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
# No checkpoint is chosen by its accuracy on the test split.
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_best=None))
