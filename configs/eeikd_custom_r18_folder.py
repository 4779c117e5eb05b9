# A start for your own: a teacher of torchvision, timm or mmpretrain, and a
# folder of unlabeled images. Copy it and edit the variables; on the command
# line, set the keys of the model and the data:
#
#   python tools/train.py configs/eeikd_custom_r18_folder.py --cfg-options \
#       model.teacher_ckpt=resnet50.pth train_dataloader.dataset.data_root=heap
_base_ = ['_base_/default_runtime.py']

num_classes = 1000
size = 224

# -- the teacher ---------------------------------------------------------
# torchvision: any name of torchvision.models, its own checkpoints.
teacher = dict(
    type='TorchvisionClassifier',
    model_name='resnet50',
    num_classes=num_classes,
)
teacher_front, teacher_back, teacher_logits = 'model.bn1', 'model.fc', 'model'
# timm: any name of timm.list_models().
#   teacher = dict(type='TimmClassifier', model_name='resnet50',
#                  num_classes=num_classes)
#   with the same three sources, as timm's ResNet names them alike.
# mmpretrain: a config of its own or of yours.
#   teacher = dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py')
#   with the sources 'backbone.bn1', 'head.fc', 'head.fc'.
front_channels, back_channels = 64, 2048

# -- model ---------------------------------------------------------------
model = dict(
    type='SingleTeacherDistill',
    # RGB statistics that the TEACHER was trained with. Image files are loaded
    # as BGR, hence to_rgb.
    data_preprocessor=dict(
        type='BatchAugDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
        augments=[
            dict(type='BatchRandomCrop', crop_size=size, padding=28),
            dict(type='BatchRandomFlip', prob=0.5),
        ],
    ),
    teacher=teacher,
    teacher_ckpt='data/teacher.pth',
    student=dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=num_classes, in_channels=512
        ),
    ),
    calculate_student_loss=False,
    channels_last=True,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc'),
            front=dict(type='ModuleOutputs', source='backbone.bn1'),
            back=dict(type='ModuleInputs', source='head.fc'),
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source=teacher_logits),
            front=dict(type='ModuleOutputs', source=teacher_front),
            back=dict(type='ModuleInputs', source=teacher_back),
        ),
        connectors=dict(
            mask=dict(type='ClassDropMask', drop_ratio=0.5),
            # Where widths are equal, leave a connector out.
            front=dict(
                type='ConvConnector',
                in_channels=64,
                out_channels=front_channels,
            ),
            back=dict(
                type='LinearConnector',
                in_channels=512,
                out_channels=back_channels,
            ),
        ),
        distill_losses=dict(
            loss_kl=dict(type='KLDivergence', tau=4.0),
            loss_front=dict(type='L1Loss'),
            loss_back=dict(type='L1Loss'),
            loss_relation=dict(type='StructuredRelationLoss', tau=4.0),
        ),
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(
                    from_student=False, recorder='logits', connector='mask'
                ),
            ),
            loss_relation=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(
                    from_student=False, recorder='logits', connector='mask'
                ),
            ),
            loss_front=dict(
                preds_S=dict(
                    from_student=True, recorder='front', connector='front'
                ),
                preds_T=dict(from_student=False, recorder='front'),
            ),
            loss_back=dict(
                preds_S=dict(
                    from_student=True,
                    recorder='back',
                    data_idx=0,
                    connector='back',
                ),
                preds_T=dict(from_student=False, recorder='back', data_idx=0),
            ),
        ),
    ),
)

# -- images --------------------------------------------------------------
# The pipeline must not augment: that is data_preprocessor.augments. For many
# small images, tools/pack_dataset.py and PackedImages are faster.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='array_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root='data/heap',
        with_label=False,
        pipeline=pipeline,
    ),
    sampler=dict(
        type='AdaptiveThresholdSampler',
        num_samples=50_000,
        gamma=0.5,
        batch_size=128,
        num_workers=4,
    ),
)
# Labeled images to evaluate on, one folder a class. Without any:
# --cfg-options val_dataloader=None val_evaluator=None val_cfg=None
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        type='CustomDataset', data_root='data/val', pipeline=pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

# -- schedule ------------------------------------------------------------
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=100)
auto_scale_lr = dict(base_batch_size=64, enable=False)
required_inputs = [
    dict(key='model.teacher_ckpt'),
    dict(key='train_dataloader.dataset.data_root'),
    dict(key='val_dataloader.dataset.data_root'),
]
trained_on = 'selected images of a folder'
