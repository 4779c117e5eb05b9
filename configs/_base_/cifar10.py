# CIFAR-10 for evaluation, and what its networks have in common.
preprocessor = dict(
    type='BatchAugDataPreprocessor',
    # RGB statistics of the training set, as in mmpretrain.
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
    augments=[
        dict(type='BatchRandomCrop', crop_size=32, padding=4),
        dict(type='BatchRandomFlip', prob=0.5),
    ],
)
resnet34 = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR',
        depth=34,
        num_stages=4,
        out_indices=(3,),
        style='pytorch',
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
resnet18 = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        num_stages=4,
        out_indices=(3,),
        style='pytorch',
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
cifar_train = dict(
    type='InMemoryImages',
    dataset=dict(
        type='CIFAR10',
        data_root='data/cifar10',
        split='train',
        download=False,
        pipeline=[],
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='array_collate'),
    dataset=dict(
        type='InMemoryImages',
        dataset=dict(
            type='CIFAR10',
            data_root='data/cifar10',
            split='test',
            download=False,
            pipeline=[],
        ),
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

# What tools/train.py looks for before it starts.
get_cifar = (
    'python -c "from torchvision.datasets import CIFAR10; '
    "CIFAR10('data/cifar10', download=True)\""
)
need_test_data = dict(
    key='val_dataloader.dataset.dataset.data_root',
    holds='cifar-10-batches-py',
    make=get_cifar,
)
need_train_data = dict(
    key='train_dataloader.dataset.dataset.data_root',
    holds='cifar-10-batches-py',
    make=get_cifar,
)
need_teacher = dict(
    key='model.teacher_ckpt',
    make='python tools/train.py configs/teachers/resnet34_cifar10.py',
)
need_unlabeled = dict(
    key='train_dataloader.dataset.data_file',
    make='mkdir -p data && '
    'python tools/pack_dataset.py IMAGENET_TRAIN_FOLDER --size 32 '
    '--out data/imagenet32.npz',
)
