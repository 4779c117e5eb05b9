# ResNet-18, explained by its last stage, whose output has passed a ReLU. The
# released ResNets have two more blocks of convolutions and three linear layers
# behind it; this one is plain, so its numbers need not be the published ones.
_base_ = ['kp_features.py']

layer = 'backbone.layer4'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=4,
        out_indices=(3,),
        style='pytorch',
        # As PyTorch has it.
        zero_init_residual=False,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        in_channels=512,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
# What learns in the two phases of the student: all up to the layer, then the
# rest.
first_phase = dict(type='PartlyFrozenClassifier', frozen=['head'])
second_phase = dict(type='PartlyFrozenClassifier', frozen=['backbone'])
_recorders = dict(features=dict(type='ModuleOutputs', source=layer))
distillation = dict(
    distiller=dict(student_recorders=_recorders, teacher_recorders=_recorders)
)
protocol = dict(layer=layer, constants=dict(lam=6.0))
# What is explained is how the layer came about. The released code measures the
# weight tensor of the analysed layer alone, by step too.
course = [
    dict(
        type='WeightDistanceHook',
        granularity='step',
        parameters=['backbone'],
    ),
    dict(type='SnapshotHook'),
]
optim_wrapper = dict(optimizer=dict(lr=0.1))
fine_tuning_lr = 1e-2
classifier_lr = 1e-2
# mmpretrain's; the linear layer is new.
_ckpt = 'data/resnet18_8xb32_in1k_20210831-fbbb1da6.pth'
imagenet = dict(type='Pretrained', checkpoint=_ckpt, prefix='backbone')
imagenet_input = dict(
    key='model.backbone.init_cfg.checkpoint',
    make=f'mkdir -p data && curl -fL -o {_ckpt} '
    'https://mmassets.onedl.ai/mmclassification/v0/resnet/'
    'resnet18_8xb32_in1k_20210831-fbbb1da6.pth',
)
