"""Checks of options, with one wording for all components."""

import difflib
import math
from collections.abc import Iterable
from typing import Optional

import torch
from torch import Tensor


def nearest(name: str, known: Iterable[str], count: int = 5) -> str:
    """Phrase which known names are nearest to a wrong one.

    Args:
        name (str): The name that was given.
        known (Iterable[str]): The names that exist.
        count (int): How many to list at most. Defaults to 5.

    Returns:
        str: ``'nearest: a, b'``, or ``'known: a, b, ...'`` where nothing is
        near.
    """
    known = sorted(known)
    # Module paths share long heads, so the last part counts most.
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.6)
    if not close:
        tail = name.rsplit('.', 1)[-1]
        close = [k for k in known if k.rsplit('.', 1)[-1] == tail][:count]
    if close:
        return 'nearest: ' + ', '.join(close)
    shown = ', '.join(known[: 4 * count])
    return f'known: {shown}' + (', ...' if len(known) > 4 * count else '')


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: If it is not.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f'{name} must be one of {choices}, but got {value!r}')
    return value


def check_flag(name: str, value: bool) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, but got {value!r}')
    return value


def check_number(
    name: str,
    value: float,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    least: Optional[float] = None,
    most: Optional[float] = None,
) -> float:
    """Return ``value`` if it is a finite number within the bounds.

    Args:
        name (str): What the number is called in the message.
        value (float): The number.
        above (float): Exclusive lower bound. Defaults to none.
        below (float): Exclusive upper bound. Defaults to none.
        least (float, optional): Inclusive lower bound. Defaults to None.
        most (float, optional): Inclusive upper bound. Defaults to None.

    Raises:
        ValueError: If it is no finite number or out of bounds.
    """
    bounds = []
    if above != -math.inf:
        bounds.append(f'> {above}')
    if least is not None:
        bounds.append(f'>= {least}')
    if below != math.inf:
        bounds.append(f'< {below}')
    if most is not None:
        bounds.append(f'<= {most}')
    good = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and above < value < below
        and (least is None or value >= least)
        and (most is None or value <= most)
    )
    if not good:
        wanted = ' and '.join(['a finite number', *bounds])
        raise ValueError(f'{name} must be {wanted}, but got {value!r}')
    return value


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return ``value`` if it is an integer that is large enough.

    Args:
        name (str): What the number is called in the message.
        value (int): The number.
        least (int): Inclusive lower bound. Defaults to 1.

    Raises:
        ValueError: If it is no integer, or too small.
    """
    if type(value) is not int:
        raise ValueError(f'{name} must be an integer, but got {value!r}')
    return check_number(name, value, least=least)


def check_tensors(**values: Tensor) -> None:
    """Check that values are tensors.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            hint = (
                ', take an element of the record with data_idx'
                if isinstance(value, (tuple, list, dict))
                else ''
            )
            raise ValueError(
                f'{name} must be a tensor, but got a '
                f'{type(value).__name__}{hint}'
            )


def check_map(name: str, feature: Tensor, channels: int) -> None:
    """Check that a feature is a map of some width.

    Raises:
        ValueError: If it is not.
    """
    check_tensors(**{name: feature})
    if feature.dim() != 4 or feature.shape[1] != channels:
        raise ValueError(
            f'{name} must have the shape (N, {channels}, H, W), but got '
            f'{tuple(feature.shape)}'
        )


def check_same_shape(preds_S: Tensor, preds_T: Tensor, hint: str = '') -> None:
    """Check that student and teacher tensors have one shape.

    Raises:
        ValueError: If they have not, or if one is no tensor.
    """
    check_tensors(preds_S=preds_S, preds_T=preds_T)
    if preds_S.shape != preds_T.shape:
        raise ValueError(
            f'student and teacher must have the same shape, but got '
            f'{tuple(preds_S.shape)} and {tuple(preds_T.shape)}{hint}'
        )


def check_rows(preds: Tensor) -> None:
    """Check that logits are one row a sample.

    Raises:
        ValueError: If they are not.
    """
    if preds.dim() != 2:
        raise ValueError(
            f'logits must have the shape (N, C), but got '
            f'{tuple(preds.shape)}; for logit maps there is SDDLoss'
        )


def check_labels(gt_labels: Tensor, preds: Tensor) -> Tensor:
    """Return labels as int64 if there is one class index a sample.

    The range is looked at on the CPU alone: elsewhere this would wait for
    the device, and the kernel that uses the labels complains itself.

    Args:
        gt_labels (Tensor): The labels.
        preds (Tensor): Logits, shape ``(N, C, *)``.

    Returns:
        Tensor: int64, shape ``(N,)``.

    Raises:
        ValueError: If there are none, or if shape, dtype or values are not
            those of class indices, or if there is only one class.
    """
    if gt_labels is None:
        raise ValueError(
            'gt_labels are needed, but got None: map them with '
            "gt_labels=dict(from_batch='gt_label')"
        )
    check_tensors(gt_labels=gt_labels)
    count, classes = preds.shape[:2]
    if classes < 2:
        raise ValueError(f'at least 2 classes are needed, but got {classes}')
    if (
        gt_labels.is_floating_point()
        or gt_labels.dtype == torch.bool
        or gt_labels.shape != (count,)
    ):
        raise ValueError(
            f'gt_labels must be class indices, integers of shape ({count},),'
            f' but got {gt_labels.dtype} of shape {tuple(gt_labels.shape)}'
        )
    check_label_range(gt_labels, classes)
    return gt_labels.long()


def check_label_range(gt_labels: Tensor, classes: int) -> None:
    """Check that labels are class indices, on the CPU alone.

    Args:
        gt_labels (Tensor): The labels, any shape.
        classes (int): How many classes there are.

    Raises:
        ValueError: If one is negative or too high.
    """
    if not gt_labels.numel() or gt_labels.device.type != 'cpu':
        return
    lowest, highest = gt_labels.aminmax()
    if lowest < 0 or highest >= classes:
        bad = lowest if lowest < 0 else highest
        raise ValueError(
            f'gt_labels must be in [0, {classes}), as there are {classes}'
            f' classes, but got {bad.item()}'
        )
