"""The methods of the survey's families, and their configs made small.

What ``methods_cifar100.py``, ``methods_demo.py`` and a test have in common: a
table of the shipped configs, and a function that puts a config on the embedded
digits, with narrower networks of the same kind.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

from mmengine.config import Config

CONFIGS = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), '..', 'configs'
)
PAIR = '{}_r32x4_r8x4_cifar100.py'


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
        config (str): File name in ``configs``.
        family (str): Family in the survey's words.
        first (str, optional): Config of the run that comes before.
        link (str): Where the config names what that run has left.
        left (str): What it has left in its folder, with the number of its
            epochs.
    """

    config: str
    family: str
    first: Optional[str] = None
    link: str = 'model.teacher_ckpt'
    left: str = 'epoch_{}.pth'


_SNAPSHOT = dict(
    link='model.init_cfg.checkpoint', left='snapshots/epoch_{}.pth'
)
METHODS = {
    'KD': Method(PAIR.format('kd'), 'response'),
    'DKD': Method(PAIR.format('dkd'), 'response'),
    'NKD': Method(PAIR.format('nkd'), 'response'),
    'SDD-KD': Method(PAIR.format('sdd_kd'), 'response'),
    'DIST': Method(PAIR.format('dist'), 'response'),
    'WSLD': Method(PAIR.format('wsld'), 'response'),
    'FitNets': Method(PAIR.format('fitnets'), 'feature'),
    'AT': Method(PAIR.format('at'), 'feature'),
    'NST': Method(PAIR.format('nst'), 'feature'),
    'OFD': Method(PAIR.format('ofd'), 'feature'),
    'ReviewKD': Method(PAIR.format('reviewkd'), 'feature'),
    'SimKD': Method(PAIR.format('simkd'), 'feature'),
    'MGD': Method(PAIR.format('mgd'), 'feature'),
    'VID': Method(PAIR.format('vid'), 'feature'),
    'FT': Method(
        PAIR.format('ft'),
        'feature',
        first=PAIR.format('ft_init'),
        link='model.distiller.connectors.paraphraser.checkpoint',
    ),
    'AB': Method(
        PAIR.format('ab'),
        'feature',
        first=PAIR.format('ab_init'),
        **_SNAPSHOT,
    ),
    'FSP': Method(
        PAIR.format('fsp'),
        'relation',
        first=PAIR.format('fsp_init'),
        **_SNAPSHOT,
    ),
    'RKD': Method(PAIR.format('rkd'), 'relation'),
    'SP': Method(PAIR.format('sp'), 'relation'),
    'CC': Method(PAIR.format('cc'), 'relation'),
    'PKT': Method(PAIR.format('pkt'), 'relation'),
    'CRD': Method(PAIR.format('crd'), 'relation'),
    'mean of 3 teachers': Method(
        'avgkd_r32x4_wrn40_2_vgg13_r8x4_cifar100.py', 'several teachers'
    ),
    'TAKD': Method(
        'takd_r20x4_r8x4_cifar100.py',
        'teacher assistant',
        first='takd_r32x4_r20x4_cifar100.py',
        left='snapshots/epoch_{}.pth',
    ),
    'born again': Method(
        'ban_r18_cifar100.py', 'self', first='teachers/resnet18_cifar100.py'
    ),
    'BYOT': Method('byot_r18_cifar100.py', 'self'),
    'DLB': Method('dlb_r18_cifar100.py', 'self'),
    'PS-KD': Method('pskd_r18_cifar100.py', 'self'),
    'TF-KD': Method('tfkd_r18_cifar100.py', 'self'),
    'CS-KD': Method('cskd_r18_cifar100.py', 'self'),
    'ONE': Method('one_r32_cifar100.py', 'online'),
    'DML': Method('dml_r32_r32_cifar100.py', 'online'),
    **{
        f'KDCL, {target}': Method(
            f'kdcl_{target}_r32_wrn162_cifar100.py', 'online'
        )
        for target in ('naive', 'linear', 'minlogit', 'general')
    },
}
# Hooks that report on a run, or guard it; a comparison does without.
_REPORTS = {
    'DistillReportHook',
    'EvaluateTeacherHook',
    'NonFiniteLossHook',
    'SelectionReportHook',
    'SyncBuffersHook',
}
_SCHEDULES = {'LinearRamp', 'LinearWarmup', 'SigmoidRamp'}
_CLASSES = 10
_SIDE = 16


def _walk(value: Any) -> Iterator[dict]:
    """Visit all dicts in a config, outer ones first."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _walk(part)


def _narrow(network: dict, is_student: bool) -> int:
    """Make a classifier narrow; return the factor."""
    backbone = network['backbone']
    kind = backbone['type']
    if kind == 'ResNet_CIFAR':
        factor = 8
        backbone.update(stem_channels=64 // factor, base_channels=64 // factor)
        channels = 512 // factor
    else:
        factor = backbone.get('width', 1) if kind == 'CifarResNet' else 1
        depth = backbone.get('depth', 32) if kind == 'CifarResNet' else 32
        backbone.clear()
        # Students of online methods shrink, a teacher assistant does not.
        small = is_student and depth == 32
        backbone.update(type='CifarResNet', depth=8 if small else depth)
        channels = 64
    head = network['head']
    head.update(num_classes=_CLASSES, in_channels=channels)
    return factor


def on_digits(config: Config, num_images: int, epochs: int) -> None:
    """Put a config on the embedded digits, with narrower networks.

    Wide CIFAR ResNets have a quarter of their channels then, ResNet-18 an
    eighth, and so have connectors and losses that name channels; other
    networks become ResNet-32, and students of three stages ResNet-8. Batches
    are of 64 images, the rate begins at 0.05, schedules of weights shrink with
    the number of epochs. Everything else, weights of losses and
    temperatures above all, stays.

    Args:
        config (Config): A config for CIFAR-100, changed in place.
        num_images (int): How many digits there are to train on.
        epochs (int): Length of the training.
    """
    model = config.model
    students = [model.get('student'), *model.get('students', {}).values()]
    factor = max(
        _narrow(part, any(part is student for student in students))
        for part in list(_walk(model))
        if 'backbone' in part and 'head' in part
    )
    if factor == 8 and 'channels_last' in model:
        # 8 channels are too few for oneDNN on some CPUs (docs/support.md).
        model.channels_last = False
    length = config.train_cfg.max_epochs
    for part in _walk([config.model, config.custom_hooks]):
        if 'backbone' in part:
            continue
        inside = part.get('type') not in ('CifarResNet', 'ResNet_CIFAR')
        is_head = part.get('type') == 'LinearClsHead'
        for key, value in part.items():
            if key.endswith('channels') and inside and not is_head:
                part[key] = (
                    value // factor
                    if isinstance(value, int)
                    else type(value)(v // factor for v in value)
                )
            if key == 'num_samples':
                part[key] = num_images
            if key == 'num_classes':
                part[key] = _CLASSES
        if part.get('type') in _SCHEDULES and part.get('by_epoch', True):
            begin = round(part.get('begin', 0) * epochs / length)
            end = round(part['end'] * epochs / length)
            part.update(begin=begin, end=max(end, begin + 1))
    config.model.data_preprocessor.update(
        mean=[78.0] * 3,
        std=[86.0] * 3,
        augments=[dict(type='BatchRandomCrop', crop_size=_SIDE, padding=2)],
    )
    config.train_dataloader.dataset = dict(
        type='DemoDigits', split='train', num_images=num_images
    )
    config.val_dataloader.dataset = dict(type='DemoDigits', split='test')
    for hook in config.default_hooks.values():
        if 'dataloader' in hook:
            # Held-out images, a fifth as many more.
            hook.dataloader.dataset = dict(
                type='DemoDigits', split='val', num_images=num_images // 5 + 1
            )
    config.val_evaluator = dict(type='Accuracy', topk=(1,))
    config.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    config.param_scheduler = dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        T_max=epochs,
        convert_to_iter_based=True,
    )
    # What the papers' schedules differ in, beside their length. CS-KD's batch
    # is of pairs.
    pairs = config.model.type == 'CSKD'
    config.train_dataloader.batch_size = 128 if pairs else 64
    config.optim_wrapper.optimizer.update(lr=0.05, weight_decay=5e-4)
    config.default_hooks.checkpoint.update(interval=epochs, save_best=None)
    config.custom_hooks = [
        hook for hook in config.custom_hooks if hook['type'] not in _REPORTS
    ]
    for hook in config.custom_hooks:
        if hook['type'] == 'SnapshotHook':
            hook['epochs'] = (epochs,)


def load(name: str) -> Config:
    """Load a shipped config.

    Args:
        name (str): File name in ``configs``.

    Returns:
        Config: The config.
    """
    return Config.fromfile(os.path.join(CONFIGS, name))
