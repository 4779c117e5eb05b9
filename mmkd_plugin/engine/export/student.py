"""A distilled student as files that need nothing of this package."""

import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmkd_plugin.utils.checkpoint import (
    find_weights,
    load_strict,
    read_checkpoint,
)
from mmkd_plugin.version import __version__

from .choice import choose_student
from .classes import find_classes
from .config import (
    foreign_packages,
    needed_imports,
    plain_config,
    student_config,
)
from .files import check_target, is_same, write_together
from .images import pipeline_and_size, plain_preprocessor
from .onnx_file import check_onnx_packages, compare_onnx, to_onnx

HEADER = '# Exported by mmkd_plugin (tools/export_student.py).\n'
_STUDENT = 'student.'
_BRANCHES = 'branches.'


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
        student (str, optional): Name of the student, where there were
            several.
    """

    checkpoint: str
    config: str
    onnx: Optional[str]
    input_size: tuple[int, int]
    num_classes: int
    classes: Optional[list[str]]
    packages: list[str]
    deviation: Optional[float]
    student: Optional[str] = None


def export_student(
    config: Config,
    checkpoint: str,
    out: str,
    *,
    onnx: Optional[str] = None,
    opset: Optional[int] = None,
    input_size: Optional[Union[int, Sequence[int]]] = None,
    ema: bool = False,
    branch: int = 0,
    name: Optional[str] = None,
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
        branch (int): Which branch of a student of :class:`ONE`. Defaults to
            0, the student itself.
        name (str, optional): Which of several students that were trained
            together, see :func:`choose_student`. Defaults to None, the best.

    Returns:
        Export: What was written.

    Raises:
        FileNotFoundError: If the checkpoint or a folder does not exist.
        ImportError: If ``onnx`` is given and packages for it are missing.
        ValueError: If config and checkpoint do not fit, the checkpoint is
            none or lacks the branch, the input size is unknown, a file would
            be overwritten that must not be, or the ONNX file does not
            reproduce the logits.
    """
    out_config = _check_outputs(config, checkpoint, out, onnx)
    if onnx is not None:
        check_onnx_packages()
    source = read_checkpoint(checkpoint)
    if ema and 'ema_state_dict' not in source:
        raise ValueError(
            f'{checkpoint} holds no averaged weights: it was not trained '
            f'with EMAHook'
        )
    plain = config.to_dict()
    name = choose_student(plain, source, name)
    model_config = student_config(plain, name)
    preprocessor = plain_preprocessor(plain)
    pipeline, size = pipeline_and_size(plain, input_size)

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        packages = foreign_packages(model_config)
        student = _build(dict(model_config, data_preprocessor=preprocessor))
        weights = find_weights(source, checkpoint)
        if branch or name or 'student' in plain['model']:
            weights = take_student(weights, checkpoint, branch, name)
        load_strict(student, weights, 'student', checkpoint)
        student.train(False)
        num_classes = _count_classes(student, size)
        classes = find_classes(plain, source, num_classes)

    exported = plain_config(
        dict(model_config, data_preprocessor=preprocessor),
        pipeline,
        classes,
        needed_imports(plain, packages),
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
        function, shape = _Logits(student), (3, *size)
        contents[onnx] = to_onnx(
            function,
            shape,
            what='student',
            inputs='input',
            outputs='logits',
            notes=notes,
            opset=opset,
        )
        deviation = compare_onnx(
            contents[onnx], function, shape, what='student', unit='logit'
        )

    write_together(contents)
    return Export(
        out,
        out_config,
        onnx,
        size,
        num_classes,
        classes,
        sorted(packages),
        deviation,
        name,
    )


def _check_outputs(
    config: Config, checkpoint: str, out: str, onnx: Optional[str]
) -> str:
    """Check the paths of the files to write; return the config's."""
    targets = {out: '.pth'}
    if onnx is not None:
        targets[onnx] = '.onnx'
    for path, suffix in targets.items():
        check_target(path, suffix)
    out_config = out.removesuffix('.pth') + '.py'
    if os.path.isdir(out) or is_same(out, checkpoint):
        raise ValueError(
            f'{out} would overwrite what is there: choose another'
        )
    if os.path.exists(out_config):
        with open(out_config, encoding='utf-8', errors='replace') as file:
            ours = file.readline() == HEADER
        if not ours or is_same(out_config, config.filename):
            raise ValueError(
                f'{out_config} exists and was not written by this tool. The '
                f'config is written beside {out}: choose another name'
            )
    return out_config


def _build(config: dict) -> nn.Module:
    from mmpretrain.registry import MODELS

    # Through text, as whoever loads the exported config will do it.
    text = Config(dict(model=config)).pretty_text
    return MODELS.build(Config.fromstring(text, '.py').model)


def take_student(
    weights: dict[str, Tensor],
    path: str,
    branch: int = 0,
    name: Optional[str] = None,
) -> dict[str, Tensor]:
    """Get the student's weights out of those of a distillation.

    Args:
        weights (dict[str, Tensor]): Weights of a ``SingleTeacherDistill`` or
            the like.
        path (str): Where they came from, for messages.
        branch (int): Which branch of a student of :class:`ONE`. Defaults to
            0, the student itself.
        name (str, optional): Which one of the students of a :class:`DML` or
            the like. Defaults to None, for models with one student.

    Returns:
        dict[str, Tensor]: The student's, under its own names.

    Raises:
        ValueError: If there are none, or none of the branch.
    """
    prefix = _STUDENT if name is None else f'students.{name}.'
    taken = _under(prefix, weights)
    if not taken:
        raise ValueError(
            f'{path} holds no weights of a student (`{prefix}*`), its keys '
            f'are {", ".join(list(weights)[:4])}, ...: it is no checkpoint '
            f'of a distillation. Give a classifier with its own config'
        )
    if branch:
        own = _under(f'{_BRANCHES}{branch}.', weights)
        if not own:
            known = {key.split('.')[0] for key in _under(_BRANCHES, weights)}
            raise ValueError(
                f'{path} has no branch {branch}; there is '
                f'{", ".join(["0 (the student)", *sorted(known, key=int)])}'
            )
        # It stands on what comes before the branching point.
        taken.update(own)
    metadata = getattr(weights, '_metadata', {})
    taken._metadata = {
        f'{key}.'.removeprefix(prefix).removesuffix('.'): value
        for key, value in metadata.items()
        if f'{key}.'.startswith(prefix)
    }
    return taken


def _under(prefix: str, weights: dict[str, Tensor]) -> OrderedDict:
    return OrderedDict(
        (key.removeprefix(prefix), value)
        for key, value in weights.items()
        if key.startswith(prefix)
    )


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
