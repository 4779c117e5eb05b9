# A start for your own: a teacher of torchvision, timm or mmpretrain whose data
# are lost, and a folder of images of anything else. Copy it and edit the
# variables; on the command line, set the keys of the model and the data:
#
#   python tools/train.py configs/mosaickd_custom_r18_folder.py --cfg-options \
#       model.teacher_ckpt=resnet50.pth train_dataloader.dataset.data_root=heap
_base_ = ['_base_/default_runtime.py']

num_classes = 1000
# Of the images that the teacher was trained on, and so of those that the
# generator makes: a multiple of 4 up to 32 pixels, of 8 up to 64, of 16 up to
# 128, of 32 up to 256.
size = 64
# Side of the patches that the discriminator judges: about a third of the
# image, as published for 32 pixels. Our choice; PatchDiscriminator lists the
# sizes that there are.
patch_size = 22

# -- the teacher ---------------------------------------------------------
# torchvision: any name of torchvision.models, its own checkpoints.
teacher = dict(
    type='TorchvisionClassifier',
    model_name='resnet50',
    num_classes=num_classes,
)
teacher_logits = 'model'
# timm: any name of timm.list_models().
#   teacher = dict(type='TimmClassifier', model_name='resnet50',
#                  num_classes=num_classes)
#   with the same source.
# mmpretrain: a config of its own or of yours.
#   teacher = dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py')
#   with the source 'head.fc'.

# -- model ---------------------------------------------------------------
model = dict(
    type='SingleTeacherDistill',
    # RGB statistics that the TEACHER was trained with; the synthetic images
    # have them as well. Image files are loaded as BGR, hence to_rgb.
    data_preprocessor=dict(
        type='BatchAugDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
        augments=[
            dict(type='BatchRandomCrop', crop_size=size, padding=size // 8),
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
    # Any other losses will do that need no labels.
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source=teacher_logits)
        ),
        distill_losses=dict(loss_kl=dict(type='KLDivergence', tau=1.0)),
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    ),
)

# -- generator and discriminator -----------------------------------------
# Adam with a rate of 1e-3 for both, which falls to 0 over the run. The weights
# of the generator's losses are options of the hook as well: adv_weight,
# align_weight, local_weight and balance_weight.
default_hooks = dict(
    mosaic=dict(
        type='MosaicGeneratorHook',
        generator=dict(type='MosaicGenerator', image_size=size),
        discriminator=dict(type='PatchDiscriminator', patch_size=patch_size),
        # Steps of the student for each of theirs.
        student_steps=5,
        # 'synthetic': only the discriminator sees the images of the folder.
        student_images='both',
    )
)

# -- images --------------------------------------------------------------
# The pipeline must not augment: that is data_preprocessor.augments. For many
# small images, tools/pack_dataset.py and PackedImages are faster. Of a large
# heap, EntropySubsetSampler takes the images that the teacher is the least
# sure about.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=size, edge='short'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
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
    sampler=dict(type='DefaultSampler', shuffle=True),
)
# Labeled images to evaluate on, one folder a class. Without any:
# --cfg-options val_dataloader=None val_evaluator=None val_cfg=None
val_dataloader = dict(
    batch_size=128,
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
# About as many steps of the student as in the published runs, 200,000, if the
# folder holds 50,000 images.
train_cfg = dict(by_epoch=True, max_epochs=512, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
# Down to 0 at the end of the run, however long it is.
param_scheduler = dict(type='CosineAnnealingLR', convert_to_iter_based=True)
auto_scale_lr = dict(base_batch_size=128, enable=False)
required_inputs = [
    dict(key='model.teacher_ckpt'),
    dict(key='train_dataloader.dataset.data_root'),
    dict(key='val_dataloader.dataset.data_root'),
]
trained_on = 'synthetic images and a folder'
