"""Teachers: built, loaded, checked and frozen."""

import os
from typing import Optional, Union

import torch
from torch import nn

from mmkd_plugin.utils.architecture import build_architecture, num_classes
from mmkd_plugin.utils.checkpoint import load_strict, load_weights

# Options by which models of other libraries bring their own weights.
_OWN_WEIGHTS = ('pretrained', 'weights', 'checkpoint_path')


def _has_weights(config: dict, model: nn.Module) -> bool:
    # mmpretrain's own classifiers turn `pretrained` into an init_cfg, which
    # takes effect in init_weights() and that is never called for a teacher.
    later = getattr(model, 'init_cfg', None)
    return not later and any(config.get(option) for option in _OWN_WEIGHTS)


def frozen_teacher(
    config: Union[dict, nn.Module],
    ckpt: Optional[str],
    name: str = 'teacher',
    key: str = 'teacher_ckpt',
) -> nn.Module:
    """Build a teacher, load its weights and freeze it.

    Args:
        config (dict or nn.Module): Config of the teacher, or a built one.
        ckpt (str, optional): Its checkpoint, loaded strictly. Not needed
            for a built module, nor for timm's and torchvision's models that
            bring their weights.
        name (str): What it is called in messages. Defaults to
            ``'teacher'``.
        key (str): What the option of the checkpoint is called in messages.
            Defaults to ``'teacher_ckpt'``.

    Returns:
        nn.Module: The teacher, in eval mode, without gradients.

    Raises:
        ValueError: If the checkpoint is missing or does not fit.
    """
    model = build_architecture(config)
    if ckpt is not None:
        load_strict(
            model, load_weights(os.fspath(ckpt)), f'{name} from {ckpt}'
        )
    elif isinstance(config, dict) and not _has_weights(config, model):
        raise ValueError(
            f'{key} is missing: an untrained teacher has nothing to teach. '
            f'Give the path of its checkpoint'
        )
    model.requires_grad_(False)
    model.train(False)
    return model


def check_same_classes(
    teacher: nn.Module, student: nn.Module, name: str = 'teacher'
) -> None:
    """Check that teacher and student have as many classes.

    Raises:
        ValueError: If they have not; where a model does not tell, nothing
            is checked.
    """
    counts = num_classes(teacher), num_classes(student)
    if None not in counts and counts[0] != counts[1]:
        raise ValueError(
            f'the {name} has {counts[0]} classes, but the student has '
            f'{counts[1]}'
        )


def check_reusable_head(teacher: nn.Module, student: nn.Module) -> None:
    """Check that the student's head can have the teacher's weights.

    Raises:
        ValueError: If a model has no head, or if the weights differ in name
            or shape.
    """
    shapes = {}
    for name, model in dict(teacher=teacher, student=student).items():
        head = getattr(model, 'head', None)
        if not isinstance(head, nn.Module) or not head.state_dict():
            raise ValueError(
                f'reuse_teacher_head: the {name}, a {type(model).__name__}, '
                f'has no head with weights'
            )
        shapes[name] = {
            key: tuple(value.shape) for key, value in head.state_dict().items()
        }
    if shapes['teacher'] != shapes['student']:
        raise ValueError(
            f"reuse_teacher_head: the student's head must be like the "
            f"teacher's, {shapes['teacher']}, but got {shapes['student']}. "
            f'A SimKDNeck brings the student to the width of the teacher'
        )


def check_same_statistics(teacher: nn.Module, preprocessor: nn.Module) -> None:
    """Check that the images are normalised as the teacher knows them.

    Args:
        teacher (nn.Module): The teacher, with a ``data_preprocessor`` if its
            config has one.
        preprocessor (nn.Module): The preprocessor of the run.

    Raises:
        ValueError: If the statistics differ.
    """
    theirs = getattr(teacher, 'data_preprocessor', None)
    for name in ('mean', 'std'):
        wanted = getattr(theirs, name, None)
        if wanted is None:
            continue
        given = getattr(preprocessor, name, None)
        if (
            given is None
            or given.shape != wanted.shape
            or not torch.allclose(given.float(), wanted.float())
        ):
            shown = None if given is None else given.flatten().tolist()
            raise ValueError(
                f'the teacher was trained with the {name} '
                f'{wanted.flatten().tolist()} of its data_preprocessor, '
                f'but the data_preprocessor here has {shown}'
            )
