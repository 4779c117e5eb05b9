"""Runs of the real engine that are small enough for a test."""

import itertools

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmkd_plugin.datasets import ArrayImages

PREPROCESSOR = dict(
    type='BatchAugDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3
)
_NUMBERS = itertools.count()


def make_images(num=12, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def make_dataset(num=12, labels=True, seed=0):
    """Images of noise, of three classes in turn."""
    return ArrayImages(
        make_images(num, seed=seed),
        labels=np.arange(num) % 3 if labels else None,
        classes=['a', 'b', 'c'] if labels else None,
    )


def classifier(width=4, **kwargs):
    """Config of a network of mmpretrain with one stage."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=width,
            base_channels=width,
            num_stages=1,
            strides=(1,),
            dilations=(1,),
            out_indices=(0,),
            style='pytorch',
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=3,
            in_channels=width,
            loss=dict(type='CrossEntropyLoss'),
        ),
        **kwargs,
    )


def save_teacher(path, seed=0, width=4):
    """Save a teacher whose answers differ from image to image."""
    init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    teacher = MODELS.build(classifier(width))
    with torch.no_grad():
        teacher.head.fc.weight.mul_(30)
    torch.save(teacher.state_dict(), path)
    return str(path)


def distillation(teacher_ckpt, **kwargs):
    """Config of plain KD, without labels."""
    logits = dict(type='ModuleOutputs', source='head.fc')
    return dict(
        type='SingleTeacherDistill',
        teacher=classifier(),
        teacher_ckpt=teacher_ckpt,
        student=classifier(2),
        calculate_student_loss=False,
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(logits=logits),
            teacher_recorders=dict(logits=logits),
            distill_losses=dict(loss_kl=dict(type='KLDivergence')),
            loss_forward_mappings=dict(
                loss_kl=dict(
                    preds_S=dict(from_student=True, recorder='logits'),
                    preds_T=dict(from_student=False, recorder='logits'),
                )
            ),
        ),
        **{'data_preprocessor': PREPROCESSOR, **kwargs},
    )


def loader(dataset, shuffle=False, batch_size=4, **kwargs):
    return dict(
        dataset=dataset,
        batch_size=batch_size,
        num_workers=0,
        collate_fn=dict(type='array_collate'),
        **{
            'sampler': dict(type='DefaultSampler', shuffle=shuffle),
            **kwargs,
        },
    )


class Watcher(Hook):
    """Notes which images and which loss each iteration has."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.images = []
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.images.append(data_batch['sample_idx'].tolist())
        self.losses.append(outputs['loss'].item())


def build_runner(work_dir, model, train, hooks=(), epochs=2, **kwargs):
    """Build a runner of its own name, with no hooks but needed ones."""
    return Runner(
        model=model,
        work_dir=str(work_dir),
        experiment_name=f'toy_{next(_NUMBERS)}',
        train_dataloader=train,
        **{
            'train_cfg': dict(by_epoch=True, max_epochs=epochs),
            'optim_wrapper': dict(optimizer=dict(type='SGD', lr=0.05)),
            'default_hooks': dict(checkpoint=None, logger=None),
            'default_scope': 'mmpretrain',
            'log_level': 'ERROR',
            'randomness': dict(seed=5),
            **kwargs,
        },
        custom_hooks=list(hooks),
    )
