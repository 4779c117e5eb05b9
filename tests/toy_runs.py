"""Runs of the real engine that are small enough for a test."""

import itertools

import numpy as np
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from toys import architecture, kd_distiller, sources

from mmkd_plugin.datasets import ArrayImages
from mmkd_plugin.models import BatchAugDataPreprocessor
from mmkd_plugin.models.generators import MosaicGenerator, PatchDiscriminator

PREPROCESSOR = dict(
    type='BatchAugDataPreprocessor', mean=[120.5] * 3, std=[60.0] * 3
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
    """Config of a network of one stage, for the three classes."""
    return architecture(width, classes=3, **kwargs)


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
    return {
        'type': 'SingleTeacherDistill',
        'teacher': classifier(),
        'teacher_ckpt': teacher_ckpt,
        'student': classifier(2),
        'calculate_student_loss': False,
        'distiller': kd_distiller(),
        'data_preprocessor': PREPROCESSOR,
        **kwargs,
    }


def loader(dataset, shuffle=False, **kwargs):
    return {
        'dataset': dataset,
        'batch_size': 4,
        'num_workers': 0,
        'collate_fn': dict(type='array_collate'),
        'sampler': dict(type='DefaultSampler', shuffle=shuffle),
        **kwargs,
    }


def mosaic_hook(**options):
    """Config of MosaicKD's hook, for images of 8x8."""
    return {
        'type': 'MosaicGeneratorHook',
        'generator': dict(
            type='MosaicGenerator', latent_dim=5, base_channels=3, image_size=8
        ),
        'discriminator': dict(
            type='PatchDiscriminator', base_channels=4, patch_size=6
        ),
        'num_pictures': 3,
        **options,
    }


def net_distillation(teacher, student, loss, **preprocessor):
    """Config of one loss on the logits of two ``published_players.Net``."""
    logits = dict(logits=dict(type='ModuleOutputs', source='logits'))
    return dict(
        type='SingleTeacherDistill',
        teacher=teacher,
        student=student,
        calculate_student_loss=False,
        data_preprocessor=dict(PREPROCESSOR, **preprocessor),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=logits,
            teacher_recorders=logits,
            distill_losses=dict(loss_logits=loss),
            loss_forward_mappings=dict(loss_logits=sources('logits')),
        ),
    )


def leaves(value, path=''):
    """Flatten nested dicts and lists, tensors made comparable by ``==``."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif isinstance(value, torch.Tensor):
        return {path: (value.dtype, value.tolist())}
    else:
        return {path: value}
    found = {}
    for key, part in items:
        found.update(leaves(part, f'{path}.{key}'))
    return found


@MODELS.register_module()
class DoublePreprocessor(BatchAugDataPreprocessor):
    """A preprocessor whose images are float64."""

    def _normalise(self, images):
        return super()._normalise(images).double()


def double_generator(**options):
    return MosaicGenerator(**options).double()


def double_discriminator(**options):
    return PatchDiscriminator(**options).double()


def double_players():
    """Networks of :func:`mosaic_hook` in float64."""
    config = mosaic_hook()
    config['generator']['type'] = double_generator
    config['discriminator']['type'] = double_discriminator
    return {name: config[name] for name in ('generator', 'discriminator')}


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


class Terms(BaseModel):
    """A model of one weight and two loss terms, that can be broken.

    Args:
        broken (dict): Iteration, counted from 1, to the values of the two
            terms in it.
    """

    def __init__(self, broken=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.broken = broken or {}
        self.calls = 0

    def forward(self, inputs, sample_idx, gt_label=None, mode='loss'):
        if mode != 'loss':
            return sample_idx.tolist()
        self.calls += 1
        factors = self.broken.get(self.calls, (1, 1))
        return dict(
            loss_a=factors[0] * self.weight.sum() ** 2,
            loss_b=factors[1] * self.weight.diff().sum() ** 2,
        )


class Preset(BaseMetric):
    """Metrics that are known beforehand, one dict for each validation."""

    def __init__(self, values):
        super().__init__()
        self.values = list(values)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return self.values.pop(0)


def validation(*values, **train_cfg):
    """What a runner needs to validate, with these results."""
    return dict(
        train_cfg=dict(by_epoch=True, max_epochs=len(values), **train_cfg),
        val_dataloader=loader(make_dataset(4)),
        val_evaluator=Evaluator(Preset(values)),
        val_cfg=dict(),
    )
