"""Reading checkpoints of unknown origin, and loading them strictly."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

MAX_LISTED = 8


class _Discarded:
    """Takes the place of a pickled object that is not a weight.

    Whatever a checkpoint says about the object is ignored, hence reading it
    cannot run code.
    """

    def __new__(cls, *args: Any) -> '_Discarded':
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


# Whose objects a training checkpoint may hold besides weights: mmengine's
# history and schedulers, argument namespaces, NumPy scalars. None of it is
# needed, so each name is bound to a stand-in instead of to the real thing:
# `getattr` (by which mmengine pickles methods) and a history buffer's
# `__setstate__` (which changes its class) are no harmless functions.
_KNOWN_PACKAGES = (
    'argparse',
    'mmcv',
    'mmengine',
    'mmkd_plugin',
    'mmpretrain',
    'numpy',
    'timm',
    'torch',
)


def _stand_ins(path: str) -> list[type]:
    """Make an inert class for each known global that a file names."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:
        # PyTorch's format of before 1.6 cannot be looked through. These are
        # what RepDistiller's checkpoints hold.
        names = [
            'argparse.Namespace',
            'numpy.core.multiarray.scalar',
            'numpy._core.multiarray.scalar',
            'numpy.dtype',
        ]
    stand_ins = []
    for name in names:
        module, _, attribute = name.rpartition('.')
        known = module.split('.')[0] in _KNOWN_PACKAGES
        if known or name == 'builtins.getattr':
            stand_ins.append(
                type(attribute, (_Discarded,), dict(__module__=module))
            )
    return stand_ins


@contextlib.contextmanager
def _only_stand_ins(path: str) -> Iterator[None]:
    """Let the unpickler know the stand-ins and nothing else."""
    # A process may have allowed the real HistoryBuffer or NumPy's functions;
    # both at once under one name would be a matter of chance.
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals(_stand_ins(path))
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_checkpoint(path: str) -> dict:
    """Read a checkpoint without running any code that it may hold.

    Objects which are neither tensors nor plain Python, such as the training
    history of mmengine, are replaced by placeholders.

    Args:
        path (str): A file written by ``torch.save``.

    Returns:
        dict: The content, tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ``path`` is a URL or a directory, or if the file is
            empty, damaged, not a checkpoint, not a dict, or holds objects
            that could run code.
    """
    path = os.fspath(path)
    if re.match(r'\w+://', path):
        raise ValueError(
            f'Checkpoint {path} is a URL. Download it first and give the '
            f'path of the file.'
        )
    if not os.path.exists(path):
        raise FileNotFoundError(f'There is no checkpoint {path}')
    if not os.path.isfile(path):
        raise ValueError(f'Checkpoint {path} is a directory, not a file')
    if os.path.getsize(path) == 0:
        raise ValueError(f'Checkpoint {path} is empty (0 bytes)')
    try:
        with _only_stand_ins(path):
            content = torch.load(path, map_location='cpu', weights_only=True)
    # A damaged pickle stream can raise anything.
    except Exception as error:
        raise ValueError(_explain(path, error)) from error
    if isinstance(content, _Discarded):
        raise ValueError(
            f'Checkpoint {path} holds a whole '
            f'`{type(content).__module__}.{type(content).__name__}`, which '
            f'is not loaded because that could run code. Save its '
            f'state_dict() instead'
        )
    if not isinstance(content, dict):
        raise ValueError(
            f'Checkpoint {path} holds a {type(content).__name__}, expected '
            f'a dict of tensors'
        )
    return content


def _explain(path: str, error: Exception) -> str:
    text = str(error)
    match = re.search(r'GLOBAL ([\w.]+)', text)
    if match:
        return (
            f'Checkpoint {path} was not loaded because it could run code: '
            f'it refers to `{match[1]}`. If you trust its origin, load it '
            f'with torch.load(..., weights_only=False) and save the '
            f'state_dict alone.'
        )
    if isinstance(error, PermissionError):
        return f'Checkpoint {path} cannot be read: {error}'
    reason = text.splitlines()[0] if text else type(error).__name__
    # PyTorch's advice to load everything is not passed on.
    reason = reason.removeprefix('Weights only load failed. ')
    return (
        f'{path} is truncated or not a PyTorch checkpoint '
        f'({type(error).__name__}: {reason[:120]})'
    )


def find_weights(checkpoint: dict, path: str) -> dict[str, Tensor]:
    """Find the weights in what :func:`read_checkpoint` returned.

    Args:
        checkpoint (dict): A state dict, or a dict that holds one under
            ``state_dict`` (mmengine, mmpretrain, timm) or ``model``
            (torchvision, RepDistiller).
        path (str): Where it came from, for messages.

    Returns:
        dict[str, Tensor]: The state dict.

    Raises:
        ValueError: If there are no weights, or something among them is not
            a tensor.
    """
    weights: Any = checkpoint
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint.get(key), dict):
            weights = checkpoint[key]
            break
    if not weights:
        raise ValueError(f'Checkpoint {path} holds no weights')
    others = [k for k, v in weights.items() if not isinstance(v, Tensor)]
    if others and weights is checkpoint:
        raise ValueError(
            f'Checkpoint {path} is no dict of tensors and has neither '
            f'`state_dict` nor `model`; its keys are {_listed(others)}'
        )
    if others:
        raise ValueError(
            f'Checkpoint {path} holds weights that are not tensors: '
            f'{_listed(others)}'
        )
    # Not copied: PyTorch's version metadata is an attribute of the dict.
    return weights


def load_weights(path: str) -> dict[str, Tensor]:
    """Load the weights of a checkpoint without running code it may hold.

    Args:
        path (str): A file written by ``torch.save``: a state dict, or a
            dict that holds one under ``state_dict`` (mmengine, mmpretrain,
            timm) or ``model`` (torchvision, RepDistiller).
            ``ema_state_dict`` is ignored: where mmengine's ``EMAHook`` is
            used, the averaged weights are those under ``state_dict``.

    Returns:
        dict[str, Tensor]: The state dict, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such a checkpoint, is damaged, or
            holds objects that could run code.
    """
    return find_weights(read_checkpoint(path), path)


def load_strict(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    what: str,
    path: Optional[str] = None,
) -> None:
    """Load weights that fit exactly.

    ``num_batches_tracked``, which old checkpoints lack, may be missing. The
    module is unchanged if the weights do not fit.

    Args:
        module (nn.Module): The module to load into.
        state_dict (dict[str, Tensor]): The weights.
        what (str): What the module is, for messages, e.g. ``'teacher'``.
        path (str, optional): Where the weights come from, for messages.
            Defaults to None.

    Raises:
        ValueError: If keys are missing, unexpected or of another shape.
    """
    source = '' if path is None else f' from {path}'
    # A module may give its state dict other keys than it loads by, hence
    # they are asked for and not read from its parameters.
    expected = module.state_dict()
    problems = _compare(state_dict, expected)
    if problems:
        raise ValueError(
            f'{what}: the weights{source} do not fit the model.\n{problems}'
        )
    module.load_state_dict(state_dict, strict=False)
    num = sum(t.numel() for t in state_dict.values())
    size = f'{num / 1e6:.1f} M' if num >= 1e5 else f'{num:,}'
    print_log(
        f'{what}: loaded {len(state_dict)} tensors ({size} values){source}',
        logger='current',
    )


def _compare(
    found: dict[str, Tensor], expected: dict[str, Tensor]
) -> Optional[str]:
    missing = [
        k
        for k in expected
        if k not in found and not k.endswith('num_batches_tracked')
    ]
    unexpected = [k for k in found if k not in expected]
    misshaped = [
        f'{k}: checkpoint {tuple(v.shape)} vs model {tuple(expected[k].shape)}'
        for k, v in found.items()
        if k in expected and v.shape != expected[k].shape
    ]
    if not (missing or unexpected or misshaped):
        return None
    hint = _prefix_hint(list(found), set(expected))
    lines = []
    if len(unexpected) == len(found):
        lines.append(f'None of its {len(found)} keys match.')
        hint = hint or 'The checkpoint belongs to another architecture.'
    for title, keys in (
        ('missing', missing),
        ('unexpected', unexpected),
        ('of another shape', misshaped),
    ):
        if keys:
            lines.append(f'{len(keys)} {title}: {_listed(keys)}')
    if hint:
        lines.append(hint)
    return '\n'.join(lines)


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - MAX_LISTED
    tail = f', ... and {more} more' if more > 0 else ''
    return ', '.join(map(str, keys[:MAX_LISTED])) + tail


def _prefix_hint(found: list[str], expected: set[str]) -> Optional[str]:
    """Find a prefix that stands between the keys and those of the model."""

    def prefixes(keys):
        parts = [k.split('.') for k in keys]
        return {
            '.'.join(p[:depth]) + '.'
            for p in parts
            for depth in (1, 2)
            if len(p) > depth
        }

    def matches(keys, others, prefix):
        return sum(
            k.startswith(prefix) and k[len(prefix) :] in others for k in keys
        )

    removed = max(
        ((matches(found, expected, p), p) for p in prefixes(found)),
        default=(0, ''),
    )
    added = max(
        ((matches(expected, set(found), p), p) for p in prefixes(expected)),
        default=(0, ''),
    )
    num, prefix = max(removed, added)
    # A few keys such as `fc.weight` match by chance.
    if 2 * num < min(len(found), len(expected)):
        return None
    if (num, prefix) == removed:
        hint = f'without the prefix `{prefix}` {num} keys match'
        if prefix == 'student.' or prefix.startswith('students.'):
            hint += '; tools/export_student.py writes the student alone'
        return f'Hint: {hint}.'
    return f'Hint: with the prefix `{prefix}` put before {num} keys match.'
