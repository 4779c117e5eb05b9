# VGG-16 without batch norm, explained by its last convolution, before its
# ReLU. A snapshot has 0.5 GB, and a training leaves up to 15.
_base_ = ['kp_features.py']

layer = 'backbone.features.16.conv'
model = dict(
    type='PartlyFrozenClassifier',
    backbone=dict(type='VGG', depth=16),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
    # The dropout layers, which have no parameters: it is off, as released.
    frozen=['backbone.classifier.2', 'backbone.classifier.5'],
)
# What learns in the two phases of the student: all up to the layer, then the
# rest.
first_phase = dict(
    type='PartlyFrozenClassifier', frozen=['backbone.classifier']
)
second_phase = dict(
    type='PartlyFrozenClassifier',
    frozen=['backbone.features', *model['frozen']],
)
_recorders = dict(features=dict(type='ModuleOutputs', source=layer))
distillation = dict(
    distiller=dict(student_recorders=_recorders, teacher_recorders=_recorders)
)
protocol = dict(layer=layer, constants=dict(lam=7.0))
# What is explained is how the layer came about. The released code measures the
# weights of that layer alone, 'backbone.features.16.conv.weight', by step too.
course = [
    dict(
        type='WeightDistanceHook',
        granularity='step',
        parameters=['backbone.features'],
    ),
    dict(type='SnapshotHook'),
]
optim_wrapper = dict(optimizer=dict(lr=1e-2))
fine_tuning_lr = 1e-3
classifier_lr = 1e-3
# The convolutions are mmpretrain's, all three linear layers are new.
_ckpt = 'data/vgg16_batch256_imagenet_20210208-db26f1a5.pth'
imagenet = dict(
    type='Normal',
    layer=['Linear'],
    std=0.01,
    override=dict(
        type='Pretrained',
        name='features',
        checkpoint=_ckpt,
        prefix='backbone.features',
    ),
)
imagenet_input = dict(
    key='model.backbone.init_cfg.override.checkpoint',
    make=f'mkdir -p data && curl -fL -o {_ckpt} '
    'https://mmassets.onedl.ai/mmclassification/v0/vgg/'
    'vgg16_batch256_imagenet_20210208-db26f1a5.pth',
)
