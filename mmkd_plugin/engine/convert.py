"""Published checkpoints of CIFAR networks as checkpoints of mmpretrain."""

import copy
import hashlib
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import mmengine
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkd_plugin.engine.export import student_config
from mmkd_plugin.utils.atomic import atomic_write
from mmkd_plugin.utils.checkpoint import load_strict, load_weights
from mmkd_plugin.utils.checks import nearest
from mmkd_plugin.utils.finite import find_non_finite
from mmkd_plugin.version import __version__

Weights = dict[str, Tensor]

_HEAD = 'head.fc'
# DataParallel, in which mdistiller and akamaster save.
_PARALLEL = 'module.'
# What mdistiller goes on from holds its whole distiller.
_STUDENT = 'student.'
_KD = 'RepDistiller, mdistiller'
_AKAMASTER = 'akamaster'
# Mean and standard deviation of the input in these repositories, RGB, 0 to
# 255: dataset/cifar100.py, mdistiller/dataset/cifar100.py, trainer.py.
_STATISTICS = {
    _KD: ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    _AKAMASTER: ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
}


def _count(weights: Weights, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in weights)


def _describe_resnet(weights: Weights) -> tuple[str, dict]:
    depth = 2 * _count(weights, r'layer\d\.\d+\.conv1\.weight') + 2
    width = len(weights['layer1.0.conv1.weight']) // 16
    name = f'resnet{depth}' + (f'x{width}' if width > 1 else '')
    return name, dict(depth=depth, width=width)


def _describe_akamaster(weights: Weights) -> tuple[str, dict]:
    name, options = _describe_resnet(weights)
    return name, dict(options, shortcut='pad')


def _describe_resnet_v2(weights: Weights) -> tuple[str, dict]:
    depth = _count(weights, r'layer\d\.\d+\.conv\d\.weight') + 2
    return f'ResNet{depth}', dict(depth=depth)


def _describe_wide_resnet(weights: Weights) -> tuple[str, dict]:
    depth = 2 * _count(weights, r'block\d\.layer\.\d+\.conv1\.weight') + 4
    widen = len(weights['block1.layer.0.conv1.weight']) // 16
    return f'wrn_{depth}_{widen}', dict(depth=depth, widen_factor=widen)


def _describe_vgg(weights: Weights) -> tuple[str, dict]:
    # The name counts three linear layers.
    depth = sum(value.ndim == 4 for value in weights.values()) + 3
    return f'vgg{depth}', dict(depth=depth)


def _describe_mobilenet_v2(weights: Weights) -> tuple[str, dict]:
    width = len(weights['conv1.0.weight']) / 32
    name = {0.5: 'mobile_half', 1.0: 'mobile_full'}.get(width, 'MobileNetV2')
    return name, dict(width_mult=width)


def _rename_resnet_v2(key: str) -> str:
    return key.replace('.shortcut.', '.downsample.')


def _rename_wide_resnet(key: str) -> str:
    key = re.sub(r'^block(\d)\.layer\.', r'layer\1.', key)
    return key.replace('.convShortcut.', '.downsample.')


_MOBILE_PARTS = {
    '0': 'expand_conv.conv',
    '1': 'expand_conv.bn',
    '3': 'depthwise_conv.conv',
    '4': 'depthwise_conv.bn',
    '6': 'linear_conv.conv',
    '7': 'linear_conv.bn',
}


def _rename_mobilenet_v2(key: str) -> str:
    key = re.sub(r'^conv([12])\.0\.', r'conv\1.', key)
    key = re.sub(r'^conv([12])\.1\.', r'bn\1.', key)
    match = re.fullmatch(r'blocks\.(\d)\.(\d)\.conv\.([013467])\.(\w+)', key)
    if match is None:
        return key
    stage, block, part, tensor = match.groups()
    return f'layer{int(stage) + 1}.{block}.{_MOBILE_PARTS[part]}.{tensor}'


# The first block of a stage has two branches, the others have one.
_SHUFFLE_FIRST = ('branch1.0', 'branch1.1')
_SHUFFLE_SECOND = ('branch2.0', 'branch2.1', 'branch2.2')


def _rename_shufflenet_v2(key: str) -> str:
    pattern = r'(layer\d)\.(\d)\.(conv|bn)([1-5])\.(\w+)'
    match = re.fullmatch(pattern, key)
    if match is None:
        return key
    layer, block, kind, number, tensor = match.groups()
    parts = _SHUFFLE_SECOND
    if block == '0':
        parts = _SHUFFLE_FIRST + _SHUFFLE_SECOND
    if int(number) > len(parts):
        return key
    return f'{layer}.{block}.{parts[int(number) - 1]}.{kind}.{tensor}'


@dataclass(frozen=True)
class Layout:
    """How one model file of a published repository names its tensors.

    Attributes:
        source (str): Whose layout it is.
        backbone (str): Type of the backbone here.
        has (tuple[str]): Convolutions that make the layout known.
        lacks (tuple[str]): Those by which similar layouts differ.
        head (str): Name of the linear layer.
        describe (Callable): Takes weights; returns the name of the network
            in the repository, and the options of the backbone.
        rename (Callable): Takes a name of the layout; returns that within
            the backbone. Defaults to no change.
        fixed (dict): Options of the backbone that change neither names nor
            shapes, with the values that they must have. Defaults to none.
    """

    source: str
    backbone: str
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    head: str
    describe: Callable[[Weights], tuple[str, dict]]
    rename: Callable[[str], str] = str
    fixed: dict[str, Any] = field(default_factory=dict)

    def fits(self, weights: Weights) -> bool:
        """Whether weights are of this layout."""
        has = [weights.get(f'{name}.weight') for name in self.has]
        return all(w is not None and w.ndim == 4 for w in has) and not any(
            f'{name}.weight' in weights for name in self.lacks
        )

    def new_name(self, key: str) -> str:
        """Name a tensor as in a classifier of mmpretrain."""
        module, _, tensor = key.rpartition('.')
        if module == self.head:
            return f'{_HEAD}.{tensor}'
        return f'backbone.{self.rename(key)}'


LAYOUTS = (
    Layout(
        _KD,
        'CifarResNet',
        has=('layer1.0.conv1', 'layer3.0.downsample.0'),
        lacks=('layer1.0.conv3', 'layer4.0.conv1'),
        head='fc',
        describe=_describe_resnet,
    ),
    Layout(
        _AKAMASTER,
        'CifarResNet',
        has=('layer1.0.conv1', 'layer3.0.conv1'),
        lacks=(
            'layer1.0.conv3',
            'layer3.0.downsample.0',
            'layer3.0.shortcut.0',
            'layer4.0.conv1',
        ),
        head='linear',
        describe=_describe_akamaster,
    ),
    Layout(
        _KD,
        'ResNet_CIFAR',
        has=('layer4.0.conv1', 'layer4.0.shortcut.0'),
        lacks=(),
        head='linear',
        describe=_describe_resnet_v2,
        rename=_rename_resnet_v2,
        fixed=dict(
            style='pytorch', strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1)
        ),
    ),
    Layout(
        _KD,
        'CifarWideResNet',
        has=('block1.layer.0.conv1', 'block3.layer.0.conv1'),
        lacks=(),
        head='fc',
        describe=_describe_wide_resnet,
        rename=_rename_wide_resnet,
    ),
    Layout(
        _KD,
        'CifarVGG',
        has=('block0.0', 'block4.0'),
        lacks=(),
        head='classifier',
        describe=_describe_vgg,
    ),
    Layout(
        _KD,
        'CifarMobileNetV2',
        has=('conv1.0', 'blocks.6.0.conv.0'),
        lacks=(),
        head='classifier.0',
        describe=_describe_mobilenet_v2,
        rename=_rename_mobilenet_v2,
    ),
    Layout(
        _KD,
        'CifarShuffleNetV1',
        has=('layer1.0.conv3', 'layer3.3.conv3'),
        lacks=('layer1.0.conv4', 'layer4.0.conv1'),
        head='linear',
        describe=lambda weights: ('ShuffleV1', {}),
    ),
    Layout(
        _KD,
        'CifarShuffleNetV2',
        has=('layer1.0.conv5', 'conv2'),
        lacks=('layer4.0.conv1',),
        head='linear',
        describe=lambda weights: ('ShuffleV2', {}),
        rename=_rename_shufflenet_v2,
    ),
)


@dataclass
class Conversion:
    """What :func:`convert_checkpoint` has done.

    Attributes:
        checkpoint (str): Path of the checkpoint written.
        network (str): What was found, e.g. ``'wrn_40_2 (RepDistiller,
            mdistiller), 100 classes'``.
        sha256 (str): Of the published file.
        renamed (dict[str, str]): The new name of each tensor taken.
        left_out (list[str]): Names of tensors that are not the network's:
            teacher and connectors in what mdistiller goes on from.
        num_absent (int): How many ``num_batches_tracked`` the file lacks;
            they are 0.
        num_parameters (int): Number of learnable values.
        notes (list[str]): What else the user should know.
    """

    checkpoint: str
    network: str
    sha256: str
    renamed: dict[str, str]
    left_out: list[str]
    num_absent: int
    num_parameters: int
    notes: list[str]

    def report(self) -> str:
        """Say in some lines what was done."""
        lines = [
            f'found: {self.network}',
            f'taken: {len(self.renamed)} tensors, {self.num_parameters:,} '
            f'parameters',
        ]
        moves = Counter(
            (_pattern(old), _pattern(new)) for old, new in self.renamed.items()
        )
        width = max(len(old) for old, _ in moves)
        for (old, new), count in moves.items():
            lines.append(f'{count:6d}  {old:{width}}  -> {new}')
        left_out = Counter(key.split('.')[0] for key in self.left_out)
        for name, count in left_out.items():
            lines.append(f'left out: {count} tensors of {name}')
        if self.num_absent:
            lines.append(
                f'absent: {self.num_absent} num_batches_tracked, now 0'
            )
        lines += [f'note: {note}' for note in self.notes]
        lines.append(f'written: {self.checkpoint}')
        return '\n'.join(lines)


def _pattern(key: str) -> str:
    """Strip a name of what differs between layers and their tensors."""
    return re.sub(r'\d+', '*', key.rpartition('.')[0])


def recognise(weights: Weights) -> Optional[Layout]:
    """Find out which published layout weights have.

    Args:
        weights (dict[str, Tensor]): A state dict.

    Returns:
        Layout: The layout, or None if it is no known one.
    """
    return next((one for one in LAYOUTS if one.fits(weights)), None)


def convert_checkpoint(
    config: Config, source: str, out: str, *, force: bool = False
) -> Conversion:
    """Write a published checkpoint as one of a classifier of mmpretrain.

    ``out`` is what ``teacher_ckpt``, ``load_from`` and
    ``mmpretrain.get_model`` take. Its ``meta`` names the file that it was
    made from. Nothing is written unless every tensor fits.

    Args:
        config (Config): Config of a classifier, or of a distillation, whose
            teacher is meant.
        source (str): The published checkpoint.
        out (str): The checkpoint to write, ``*.pth``.
        force (bool): Whether ``out`` may be replaced. Defaults to False.

    Returns:
        Conversion: What was done.

    Raises:
        FileExistsError: If ``out`` exists and ``force`` is not set.
        FileNotFoundError: If ``source`` or the folder of ``out`` is missing.
        ValueError: If such checkpoints are for none of the config's
            networks, or ``source`` is none, is damaged, or is of another
            network or number of classes.
    """
    model_config, layouts = _target(config)
    _check_output(source, out, force)
    weights, left_out = _unwrap(load_weights(source))
    layout = recognise(weights)
    if layout is None:
        raise ValueError(_explain_unknown(weights, source, layouts))
    name, options = layout.describe(weights)
    classes = _num_rows(weights, layout.head)
    network = f'{name} ({layout.source})'
    if classes:
        network += f', {classes} classes'

    model = _build(model_config)
    # Where it is another network, the listing is of use all the same.
    rules = layout if layout in layouts else layouts[0]
    converted = OrderedDict((rules.new_name(k), v) for k, v in weights.items())
    try:
        load_strict(model, converted, 'conversion', source)
    except ValueError as error:
        expected = model.state_dict()[f'{_HEAD}.weight'].shape[0]
        lines = [
            f'{source} is {network}; it fits '
            f'{_phrase(dict(type=layout.backbone, **options))}.',
            f'The config has {_phrase(model_config["backbone"])}, '
            f'{expected} classes.',
        ]
        if classes not in (0, expected):
            lines.append(
                f'Set num_classes of its head to {classes}, or take another '
                f'checkpoint.'
            )
        lines.append(str(error))
        raise ValueError('\n'.join(lines)) from error
    _check_unseen(model.backbone, layout)
    broken = find_non_finite(weights)
    if broken is not None:
        raise ValueError(f'{source}: not all values of {broken} are finite')

    state = model.state_dict()
    sha256 = _sha256(source)
    meta = dict(
        mmengine_version=mmengine.__version__,
        mmkd_plugin_version=__version__,
        source=os.path.basename(source),
        source_network=network,
        source_sha256=sha256,
    )
    with atomic_write(out) as file:
        torch.save(dict(meta=meta, state_dict=state), file)
    return Conversion(
        checkpoint=out,
        network=network,
        sha256=sha256,
        renamed=dict(zip(weights, converted, strict=True)),
        left_out=left_out,
        num_absent=len(state) - len(converted),
        num_parameters=sum(p.numel() for p in model.parameters()),
        notes=_compare_statistics(config.to_dict(), layout),
    )


def _target(config: Config) -> tuple[dict, list[Layout]]:
    """Get the config of the network, and the layouts it has elsewhere."""
    model = config.to_dict().get('model')
    if isinstance(model, dict) and isinstance(model.get('teacher'), dict):
        model = model['teacher']
    model = student_config(dict(model=model))
    backbone = model.get('backbone')
    if not isinstance(backbone, dict) or 'type' not in backbone:
        raise ValueError(
            f'the model of the config must be an ImageClassifier with a '
            f'backbone, but is a {model.get("type")!r}'
        )
    name = str(backbone['type']).rsplit('.', 1)[-1]
    layouts = [one for one in LAYOUTS if one.backbone == name]
    if not layouts:
        known = {one.backbone for one in LAYOUTS}
        raise ValueError(
            f'there are no published checkpoints for the backbone {name!r} '
            f'of the config; {nearest(name, known, 3)}'
        )
    return model, layouts


def _check_output(source: str, out: str, force: bool) -> None:
    if not out.endswith('.pth'):
        raise ValueError(f'the file to write must end in .pth, but got {out}')
    folder = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f'there is no folder {folder} to write {out} to'
        )
    if not os.path.exists(out):
        return
    same = os.path.exists(source) and os.path.samefile(source, out)
    if os.path.isdir(out) or same:
        raise ValueError(
            f'{out} would overwrite what is there: choose another'
        )
    if not force:
        raise FileExistsError(f'{out} exists. Use --force to replace it')


def _unwrap(weights: Weights) -> tuple[Weights, list[str]]:
    """Get the network out of its wrappers; list what else was there."""
    if all(key.startswith(_PARALLEL) for key in weights):
        weights = {k.removeprefix(_PARALLEL): v for k, v in weights.items()}
    student = {
        key.removeprefix(_STUDENT): value
        for key, value in weights.items()
        if key.startswith(_STUDENT)
    }
    if not student:
        return weights, []
    return student, [k for k in weights if not k.startswith(_STUDENT)]


def _num_rows(weights: Weights, linear: str) -> int:
    """Count the rows of a linear layer; 0 if it is not there."""
    weight = weights.get(f'{linear}.weight')
    return 0 if weight is None or weight.ndim == 0 else len(weight)


def _explain_unknown(
    weights: Weights, source: str, layouts: list[Layout]
) -> str:
    keys = list(weights)
    if any(key.startswith('backbone.') for key in keys):
        return (
            f'{source} has the keys of mmpretrain (`backbone.*`) already: '
            f'use it as it is'
        )
    wanted = ' or '.join(
        f'that of {one.source} (`{one.has[0]}.weight`, `{one.head}.weight`)'
        for one in layouts
    )
    return (
        f'{source} is of no known network. Its {len(keys)} keys are '
        f'{", ".join(keys[:6])}{", ..." if len(keys) > 6 else ""}; '
        f'the layout for {layouts[0].backbone} is {wanted}'
    )


def _phrase(backbone: dict) -> str:
    options = ', '.join(f'{k}={v!r}' for k, v in backbone.items())
    return f'backbone=dict({options})'


def _build(config: dict) -> nn.Module:
    try:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(copy.deepcopy(config))
    except AssertionError as error:
        raise ValueError(f'the model of the config: {error}') from error
    if f'{_HEAD}.weight' not in model.state_dict():
        raise ValueError(
            'the model of the config must have one linear layer as its head '
            '(LinearClsHead), as the published networks have'
        )
    return model


def _check_unseen(backbone: nn.Module, layout: Layout) -> None:
    """Check what weights of the right names and shapes do not tell."""
    for name, value in layout.fixed.items():
        given = getattr(backbone, name)
        if list(given) != list(value):
            raise ValueError(
                f'the published {layout.backbone} has {name}={value!r}, but '
                f'the config has {given!r}: it would take the weights and '
                f'give other answers'
            )


def _compare_statistics(config: dict, layout: Layout) -> list[str]:
    """Note where the config normalises images in another way."""
    preprocessor = config['model'].get('data_preprocessor')
    preprocessor = preprocessor or config.get('data_preprocessor') or {}
    given = [preprocessor.get('mean'), preprocessor.get('std')]
    wanted = _STATISTICS[layout.source]
    if all(
        isinstance(have, (list, tuple))
        and len(have) == 3
        and all(abs(a - b) < 1 for a, b in zip(have, want, strict=True))
        for have, want in zip(given, wanted, strict=True)
    ):
        return []
    return [
        f'{layout.source} normalise with mean {wanted[0]} and std '
        f'{wanted[1]} (RGB), the config has {given[0]} and {given[1]}'
    ]


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
