"""A distilled student as files that need nothing of this package."""

import copy
import importlib.util
import io
import json
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmkd_plugin.utils.architecture import read_architecture
from mmkd_plugin.utils.atomic import atomic_write
from mmkd_plugin.utils.checkpoint import (
    find_weights,
    load_strict,
    read_checkpoint,
)
from mmkd_plugin.utils.checks import check_number
from mmkd_plugin.version import __version__

HEADER = '# Exported by mmkd_plugin (tools/export_student.py).\n'
TOLERANCE = 1e-4

_STUDENT = 'student.'
_ONNX_MODULES = ('onnx', 'onnxruntime', 'onnxscript')
# Packages that are there wherever the exported config is used.
_STOCK = ('mmpretrain', 'mmengine', 'mmcv', 'torch', 'torchvision')
_PREPROCESSORS = ('BatchAugDataPreprocessor', 'ClsDataPreprocessor')
# What a preprocessor does outside of training.
_TEST_OPTIONS = ('mean', 'std', 'pad_size_divisor', 'pad_value')


@dataclass
class Export:
    """What :func:`export_student` has written.

    Attributes:
        checkpoint (str): Path of the checkpoint.
        config (str): Path of the config.
        onnx (str, optional): Path of the ONNX file.
        input_size (tuple[int, int]): Height and width, pixels.
        num_classes (int): Number of logits.
        classes (list[str], optional): Names of the classes.
        packages (list[str]): Packages other than mmpretrain's that the
            student needs; empty for students of mmpretrain.
        deviation (float, optional): Largest deviation of onnxruntime's
            logits, relative to the largest logit.
    """

    checkpoint: str
    config: str
    onnx: Optional[str]
    input_size: tuple[int, int]
    num_classes: int
    classes: Optional[list[str]]
    packages: list[str]
    deviation: Optional[float]


def export_student(
    config: Config,
    checkpoint: str,
    out: str,
    *,
    onnx: Optional[str] = None,
    opset: Optional[int] = None,
    input_size: Optional[Union[int, Sequence[int]]] = None,
    ema: bool = False,
) -> Export:
    """Write the student of a distillation as a model of plain mmpretrain.

    ``out`` and the config beside it, with the suffix ``.py``, are what
    ``mmpretrain.get_model`` and ``mmpretrain.ImageClassificationInferencer``
    take. Image files give what the student gave in training: its channel
    order is kept, whether it saw RGB arrays or mmpretrain's BGR files.

    The ONNX file has one input, ``input``: normalised images, float32
    ``(B, 3, H, W)``, channels in the student's order, B free; and one
    output, ``logits``, float32 ``(B, num_classes)``. As in MMDeploy,
    normalisation is not part of it. Its metadata have ``mean``, ``std``,
    ``channel_order`` and ``classes`` in JSON.

    The teacher is neither built nor loaded. Nothing is written unless
    everything has been checked.

    Args:
        config (Config): Config of the distillation, or of a classifier.
        checkpoint (str): Checkpoint of the same run.
        out (str): The checkpoint to write, ``*.pth``.
        onnx (str, optional): The ONNX file to write, ``*.onnx``. Defaults
            to None.
        opset (int, optional): Version of the ONNX operators. Defaults to
            None, which is what PyTorch recommends.
        input_size (int or Sequence[int], optional): Height and width of the
            images, pixels. Defaults to None: the config's ``input_size``,
            or the size that its augmentation crops to, or that of its
            test pipeline.
        ema (bool): Whether to insist on averaged weights. mmengine's
            ``EMAHook`` stores them in place of the trained ones, so they
            are exported in any case where there are some. Defaults to
            False.

    Returns:
        Export: What was written.

    Raises:
        FileNotFoundError: If the checkpoint or a folder does not exist.
        ImportError: If ``onnx`` is given and packages for it are missing.
        ValueError: If config and checkpoint do not fit, the checkpoint is
            none, the input size is unknown, a file would be overwritten
            that must not be, or the ONNX file does not reproduce the
            logits.
    """
    out_config = _check_outputs(config, checkpoint, out, onnx)
    if onnx is not None:
        _check_onnx_packages()
    source = read_checkpoint(checkpoint)
    if ema and 'ema_state_dict' not in source:
        raise ValueError(
            f'{checkpoint} holds no averaged weights: it was not trained '
            f'with EMAHook'
        )
    plain = config.to_dict()
    model_config = student_config(plain)
    preprocessor = _plain_preprocessor(plain)
    pipeline, size = _pipeline_and_size(plain, input_size)

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        packages = _foreign_packages(model_config)
        student = _build(dict(model_config, data_preprocessor=preprocessor))
        weights = find_weights(source, checkpoint)
        if 'student' in plain['model']:
            weights = take_student(weights, checkpoint)
        load_strict(student, weights, 'student', checkpoint)
        student.train(False)
        num_classes = _count_classes(student, size)
        classes = _find_classes(plain, source, num_classes)

    exported = _plain_config(
        dict(model_config, data_preprocessor=preprocessor),
        pipeline,
        classes,
        _needed_imports(plain, packages),
    )
    # `get_model` takes the names from here.
    meta: dict[str, Any] = dict(mmkd_plugin_version=__version__)
    meta['dataset_meta'] = dict(classes=classes) if classes else {}
    buffer = io.BytesIO()
    torch.save(dict(state_dict=student.state_dict(), meta=meta), buffer)
    contents = {
        out: buffer.getvalue(),
        out_config: (HEADER + exported.pretty_text).encode(),
    }
    deviation = None
    if onnx is not None:
        notes = dict(
            mean=preprocessor.get('mean'),
            std=preprocessor.get('std'),
            channel_order='rgb' if preprocessor['to_rgb'] else 'bgr',
            classes=classes,
        )
        contents[onnx], deviation = _to_onnx(student, size, opset, notes)

    with ExitStack() as stack:
        # Renamed when the stack is left, so all of them or none.
        files = [stack.enter_context(atomic_write(path)) for path in contents]
        for file, content in zip(files, contents.values(), strict=True):
            file.write(content)
    return Export(
        out,
        out_config,
        onnx,
        size,
        num_classes,
        classes,
        sorted(packages),
        deviation,
    )


def _check_outputs(
    config: Config, checkpoint: str, out: str, onnx: Optional[str]
) -> str:
    """Check the paths of the files to write; return the config's."""
    targets = {out: '.pth'}
    if onnx is not None:
        targets[onnx] = '.onnx'
    for path, suffix in targets.items():
        if not path.endswith(suffix):
            raise ValueError(
                f'the file to write must end in {suffix}, but got {path}'
            )
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f'there is no folder {folder} to write {path} to'
            )
    out_config = out.removesuffix('.pth') + '.py'
    if os.path.isdir(out) or _is_same(out, checkpoint):
        raise ValueError(
            f'{out} would overwrite what is there: choose another'
        )
    if os.path.exists(out_config):
        with open(out_config, encoding='utf-8', errors='replace') as file:
            ours = file.readline() == HEADER
        if not ours or _is_same(out_config, config.filename):
            raise ValueError(
                f'{out_config} exists and was not written by this tool. The '
                f'config is written beside {out}: choose another name'
            )
    return out_config


def _is_same(path: str, other: Optional[str]) -> bool:
    return (
        other is not None
        and os.path.exists(path)
        and os.path.exists(other)
        and os.path.samefile(path, other)
    )


def _check_onnx_packages() -> None:
    missing = [n for n in _ONNX_MODULES if importlib.util.find_spec(n) is None]
    if missing:
        raise ImportError(
            f'--onnx needs {", ".join(missing)}: '
            f"pip install 'mmkd_plugin[tests]'"
        )


def _short(name: Any) -> str:
    """Strip a scope or an import path from the name of a type."""
    return str(name).rsplit('.', 1)[-1]


def _walk(config: Any) -> Iterator[dict]:
    """Visit all dicts in a config, outer ones first."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, (dict, list, tuple)):
        parts = config.values() if isinstance(config, dict) else config
        for part in parts:
            yield from _walk(part)


def student_config(config: dict) -> dict:
    """Get the student of a config as a model of its own.

    Args:
        config (dict): A distillation config, or that of a classifier.

    Returns:
        dict: Config of the model, without preprocessor, training options and
        first weights.

    Raises:
        ValueError: If there is no model in the config.
    """
    model = config.get('model')
    if not isinstance(model, dict):
        raise ValueError('the config has no `model`')
    model = model.get('student', model)
    if 'cfg_path' in model:
        model = read_architecture(model).to_dict()
        model.pop('_scope_', None)
    model = copy.deepcopy(model)
    model.pop('data_preprocessor', None)
    for part in _walk(model):
        name = _short(part.get('type'))
        for option in ('pretrained', 'train_cfg'):
            part.pop(option, None)
        if name == 'TorchvisionClassifier':
            part.pop('weights', None)
        if name in ('TimmClassifier', 'TIMMBackbone'):
            part.pop('checkpoint_path', None)
        init = part.get('init_cfg')
        inits = init if isinstance(init, list) else [init or {}]
        if any(_short(i.get('type')) == 'Pretrained' for i in inits):
            part.pop('init_cfg')
    return model


def _plain_preprocessor(config: dict) -> dict:
    """Get the stock preprocessor that does the same to image files."""
    given = config['model'].get('data_preprocessor')
    given = given or config.get('data_preprocessor') or {}
    name = _short(given.get('type', 'ClsDataPreprocessor'))
    if name not in _PREPROCESSORS:
        raise ValueError(
            f'the data_preprocessor must be one of {_PREPROCESSORS} to be '
            f'exported, but got {given["type"]!r}'
        )
    plain: dict[str, Any] = dict(type='ClsDataPreprocessor')
    plain.update({k: given[k] for k in _TEST_OPTIONS if k in given})
    # The student's order is that of the data, reversed if `to_rgb`. Files
    # are loaded as BGR.
    reverse = bool(given.get('to_rgb', False))
    plain['to_rgb'] = reverse == _loads_bgr(config, name)
    return plain


def _loads_bgr(config: dict, preprocessor: str) -> bool:
    """Whether the model was trained on images in OpenCV's channel order."""
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset')
        if isinstance(dataset, dict):
            return _file_pipeline(dataset) is not None
    # Without data, the usual data of the preprocessor.
    return preprocessor == 'ClsDataPreprocessor'


def _file_pipeline(dataset: dict) -> Optional[list]:
    """Get the pipeline of a data set, if it loads files."""
    for part in _walk(dataset):
        pipeline = part.get('pipeline') or []
        if any(_short(t.get('type')) == 'LoadImageFromFile' for t in pipeline):
            return pipeline
    return None


def _pipeline_and_size(
    config: dict, given: Optional[Union[int, Sequence[int]]]
) -> tuple[list[dict], tuple[int, int]]:
    """Get the test pipeline and the height and width that it gives."""
    own = None
    for loader in ('test_dataloader', 'val_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset')
        if given is None and isinstance(dataset, dict) and own is None:
            own = _file_pipeline(dataset)
    if own is not None and _foreign_packages(dict(pipeline=own)):
        own = None
    if own is not None and _short(own[-1].get('type')) != 'PackInputs':
        # A wrapper of the data set takes the images themselves.
        own = [*own, dict(type='PackInputs')]
    size = config.get('input_size') if given is None else given
    if size is None:
        size = _crop_size(config, own or [])
    if size is None:
        raise ValueError(
            'the config does not tell the size of the images: give it with '
            '--input-size'
        )
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2:
        raise ValueError(
            f'input_size must be one number or height and width, but got '
            f'{size!r}'
        )
    for side in sides:
        check_number('input_size', side, least=1)
    height, width = (int(side) for side in sides)
    pipeline = own or [
        dict(type='LoadImageFromFile'),
        # mmcv's scale is (width, height).
        dict(type='Resize', scale=(width, height)),
        dict(type='PackInputs'),
    ]
    return pipeline, (height, width)


def _crop_size(config: dict, pipeline: list[dict]) -> Any:
    preprocessor = config['model'].get('data_preprocessor')
    preprocessor = preprocessor or config.get('data_preprocessor') or {}
    for transform in preprocessor.get('augments') or []:
        if 'crop_size' in transform:
            return transform['crop_size']
    for transform in reversed(pipeline):
        if 'crop_size' in transform:
            return transform['crop_size']
        if _short(transform.get('type')) == 'Resize':
            scale = transform.get('scale')
            return scale if isinstance(scale, int) else tuple(scale)[::-1]
    return None


def _foreign_packages(config: dict) -> set[str]:
    """Find the packages of types that are not OpenMMLab's."""
    from mmpretrain.registry import MODELS, TRANSFORMS

    packages = set()
    for part in _walk(config):
        name = part.get('type')
        if not isinstance(name, str):
            continue
        found = MODELS.get(name) or TRANSFORMS.get(name)
        module = getattr(found, '__module__', None)
        if module is not None:
            packages.add(module.split('.', 1)[0])
    return packages.difference(_STOCK)


def _needed_imports(config: dict, packages: set[str]) -> list[str]:
    given = (config.get('custom_imports') or {}).get('imports', [])
    given = [given] if isinstance(given, str) else given
    return [name for name in given if name.split('.', 1)[0] in packages]


def _build(config: dict) -> nn.Module:
    from mmpretrain.registry import MODELS

    # Through text, as whoever loads the exported config will do it.
    text = Config(dict(model=config)).pretty_text
    return MODELS.build(Config.fromstring(text, '.py').model)


def take_student(weights: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """Get the student's weights out of those of a distillation.

    Args:
        weights (dict[str, Tensor]): Weights of a ``SingleTeacherDistill``.
        path (str): Where they came from, for messages.

    Returns:
        dict[str, Tensor]: The student's, under its own names.

    Raises:
        ValueError: If there are none.
    """
    taken = OrderedDict(
        (key.removeprefix(_STUDENT), value)
        for key, value in weights.items()
        if key.startswith(_STUDENT)
    )
    if not taken:
        raise ValueError(
            f'{path} holds no weights of a student (`{_STUDENT}*`), its keys '
            f'are {", ".join(list(weights)[:4])}, ...: it is no checkpoint '
            f'of a distillation. Give a classifier with its own config'
        )
    metadata = getattr(weights, '_metadata', {})
    taken._metadata = {
        f'{name}.'.removeprefix(_STUDENT).removesuffix('.'): value
        for name, value in metadata.items()
        if f'{name}.'.startswith(_STUDENT)
    }
    return taken


class _Logits(nn.Module):
    """The student as a function of one tensor."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.train(student.training)

    def forward(self, input: Tensor) -> Tensor:
        return self.student(input, mode='tensor')


@torch.no_grad()
def _count_classes(student: nn.Module, size: tuple[int, int]) -> int:
    try:
        logits = student(torch.zeros(2, 3, *size), mode='tensor')
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f'the student does not take images of {size[0]}x{size[1]} '
            f'pixels: {error}'
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError(
            'the student must give logits of shape (B, num_classes), but '
            f'gives {getattr(logits, "shape", type(logits).__name__)}'
        )
    if not logits.isfinite().all():
        raise ValueError('the logits of the student are not finite')
    return logits.shape[1]


def _find_classes(
    config: dict, checkpoint: dict, num_classes: int
) -> Optional[list[str]]:
    """Find the names of the classes.

    The evaluation data come first: a student may be trained on images whose
    classes are not its own.
    """
    sources = []
    for loader in ('val_dataloader', 'test_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset')
        if isinstance(dataset, dict):
            sources.append((loader, lambda d=dataset: _dataset_classes(d)))
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    trained = meta.get('dataset_meta') or {}
    sources.append(('checkpoint', lambda: trained.get('classes')))
    for source, get in sources:
        classes = get()
        if not isinstance(classes, (list, tuple)) or not classes:
            continue
        if len(classes) == num_classes:
            return [str(name) for name in classes]
        print_log(
            f'The {len(classes)} class names of the {source} are not used: '
            f'the student has {num_classes} classes.',
            logger='current',
            level=logging.WARNING,
        )
    print_log(
        'The names of the classes are not known; the exported model gives '
        'indices only.',
        logger='current',
        level=logging.WARNING,
    )
    return None


def _dataset_classes(dataset: dict) -> Optional[Sequence[str]]:
    from mmpretrain.registry import DATASETS

    for part in _walk(dataset):
        metainfo = part.get('metainfo') or {}
        given = part.get('classes') or metainfo.get('classes')
        if isinstance(given, (list, tuple)):
            return given
        if isinstance(part.get('type'), str):
            found = DATASETS.get(part['type'])
            given = getattr(found, 'METAINFO', {}).get('classes')
            if given:
                return given
    # A wrapper may read all images.
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    try:
        return DATASETS.build(dataset).metainfo.get('classes')
    # The data need not be there, and names are only an extra.
    except Exception as error:
        print_log(
            f'The evaluation data cannot be asked for class names: {error}',
            logger='current',
            level=logging.WARNING,
        )
        return None


def _plain_config(
    model: dict,
    pipeline: list[dict],
    classes: Optional[list[str]],
    imports: list[str],
) -> Config:
    dataset: dict[str, Any] = dict(
        type='CustomDataset', data_root='data/test', pipeline=pipeline
    )
    if classes:
        dataset['classes'] = classes
    config: dict[str, Any] = dict(
        default_scope='mmpretrain',
        model=model,
        test_dataloader=dict(
            batch_size=64,
            num_workers=2,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        test_evaluator=dict(type='Accuracy', topk=(1,)),
        test_cfg=dict(),
    )
    if imports:
        config['custom_imports'] = dict(
            imports=imports, allow_failed_imports=False
        )
    return Config(config)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep loggers from printing tracebacks of what is handled here."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _to_onnx(
    student: nn.Module,
    size: tuple[int, int],
    opset: Optional[int],
    notes: dict,
) -> tuple[bytes, float]:
    """Get an ONNX model that was compared with the student."""
    import onnx

    function = _Logits(student)
    example = torch.zeros(2, 3, *size)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'student.onnx')
        try:
            with _quiet('onnxscript', 'torch.onnx'):
                torch.onnx.export(
                    function,
                    (example,),
                    path,
                    dynamo=True,
                    input_names=['input'],
                    output_names=['logits'],
                    dynamic_shapes=dict(input={0: 'batch'}),
                    opset_version=opset,
                    # One file, up to ONNX's limit of 2 GB.
                    external_data=False,
                    verbose=False,
                )
        # The exporter has errors of its own and passes on others.
        except Exception as error:
            raise ValueError(
                f'PyTorch cannot export the student to ONNX: '
                f'{type(error).__name__}: {str(error)[:500]}'
            ) from error
        model = onnx.load(path)
    versions = {o.domain: o.version for o in model.opset_import}
    if opset is not None and versions.get('') != opset:
        raise ValueError(
            f'PyTorch cannot export the student with ONNX opset {opset}, '
            f'only with {versions.get("")}'
        )
    # The exporter notes where in which source file each node comes from.
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField('metadata_props')
    for part in (*model.graph.input, *model.graph.output):
        part.ClearField('metadata_props')
    for part in model.graph.initializer:
        part.ClearField('metadata_props')
    onnx.helper.set_model_props(
        model, {key: json.dumps(value) for key, value in notes.items()}
    )
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    return content, _compare(content, function, size)


@torch.no_grad()
def _compare(
    content: bytes, function: nn.Module, size: tuple[int, int]
) -> float:
    """Get the largest relative deviation of onnxruntime's logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        content, providers=['CPUExecutionProvider']
    )
    generator = torch.Generator().manual_seed(0)
    deviations = []
    for batch in (1, 5):
        images = torch.randn(batch, 3, *size, generator=generator)
        expected = function(images)
        (logits,) = session.run(['logits'], {'input': images.numpy()})
        gap = (torch.from_numpy(logits) - expected).abs().max()
        deviations.append((gap / expected.abs().max()).item())
    # Also true for NaN.
    if not max(deviations) <= TOLERANCE:
        raise ValueError(
            f'the ONNX model deviates from the student by '
            f'{max(deviations):.1e} of the largest logit, more than '
            f'{TOLERANCE:.0e}'
        )
    return max(deviations)
