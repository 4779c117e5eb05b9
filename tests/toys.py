"""Small models and configs that several tests build."""

import torch
from mmengine.registry import MODELS

import mmkd_plugin  # noqa: F401

CLASSES = 5


def architecture(width=4, stages=1, classes=CLASSES, **more):
    """Get the config of a ResNet_CIFAR with one or more stages."""
    return dict(
        type='mmpretrain.ImageClassifier',
        _scope_='mmpretrain',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=width,
            base_channels=width,
            num_stages=stages,
            strides=(1, 2, 2, 2)[:stages],
            dilations=(1,) * stages,
            out_indices=(stages - 1,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=classes,
            in_channels=width * 2 ** (stages - 1),
        ),
        **more,
    )


def teacher(seed=1, **options):
    """Build a teacher whose answers and running statistics are not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS.build(architecture(**options))
        model.head.fc.weight.data.normal_()
        model.train()
        for _ in range(3):
            model(torch.randn(16, 3, 8, 8))
    return model


def sources(recorder, connector=None, **more):
    """Get the two usual sources of a loss, the connector on the teacher."""
    given = dict(connector=connector) if connector else {}
    return dict(
        preds_S=dict(from_student=True, recorder=recorder, **more),
        preds_T=dict(from_student=False, recorder=recorder, **given, **more),
    )


def kd_distiller():
    """Get the config of plain distillation."""
    recorders = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    return dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_kl=dict(type='KLDivergence', tau=4.0)),
        loss_forward_mappings=dict(loss_kl=sources('logits')),
    )


def eeikd_distiller(**relation):
    """Get the config of all parts of EEIKD."""
    recorders = dict(
        logits=dict(type='ModuleOutputs', source='head.fc'),
        front=dict(type='ModuleOutputs', source='backbone.bn1'),
        back=dict(type='ModuleInputs', source='head.fc'),
    )
    return dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        connectors=dict(mask=dict(type='ClassDropMask', drop_ratio=0.5)),
        distill_losses=dict(
            loss_kl=dict(type='KLDivergence', tau=4.0),
            loss_front=dict(type='L1Loss'),
            loss_back=dict(type='L1Loss'),
            loss_relation=dict(type='StructuredRelationLoss', **relation),
        ),
        loss_forward_mappings=dict(
            loss_kl=sources('logits', 'mask'),
            loss_front=sources('front'),
            loss_back=sources('back', data_idx=0),
            loss_relation=sources('logits', 'mask'),
        ),
    )


def algorithm(seed=0, **options):
    """Build a SingleTeacherDistill on unlabeled images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = dict(
            type='SingleTeacherDistill',
            student=architecture(),
            distiller=eeikd_distiller(),
            calculate_student_loss=False,
        )
        config.update(options)
        if 'teacher' not in config:
            config['teacher'] = teacher()
        model = MODELS.build(config)
        return model.train()
