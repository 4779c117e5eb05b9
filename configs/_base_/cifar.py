# What CIFAR-10 and CIFAR-100 share; cifar10.py and cifar100.py name the data.
preprocessor = dict(
    type='BatchAugDataPreprocessor',
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
    head=dict(type='LinearClsHead', in_channels=512),
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
    head=dict(type='LinearClsHead', in_channels=512),
)
cifar_train = dict(
    type='InMemoryImages',
    dataset=dict(split='train', download=False, pipeline=[]),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='array_collate'),
    dataset=dict(
        type='InMemoryImages',
        dataset=dict(split='test', download=False, pipeline=[]),
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

# What tools/train.py looks for before it starts.
need_test_data = dict(key='val_dataloader.dataset.dataset.data_root')
need_train_data = dict(key='train_dataloader.dataset.dataset.data_root')
need_teacher = dict(key='model.teacher_ckpt')
need_unlabeled = dict(
    key='train_dataloader.dataset.data_file',
    make='mkdir -p data && '
    'python tools/pack_dataset.py IMAGENET_TRAIN_FOLDER --size 32 '
    '--out data/imagenet32.npz',
)
