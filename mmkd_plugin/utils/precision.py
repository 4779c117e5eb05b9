"""Losses compute in full precision whatever autocast says."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def _upcast(value):
    if isinstance(value, Tensor) and value.dtype in _HALF:
        return value.float()
    return value


def full_precision(func: Callable) -> Callable:
    """Run a tensor function in float32 or better, with autocast off.

    Half precision arguments become float32; float32 and float64 stay what
    they are. Gradients flow back in the dtype of the arguments.

    Args:
        func (Callable): A function of tensors, by position or by name.

    Returns:
        Callable: The function, wrapped.
    """

    @functools.wraps(func)
    def wrapped(*args, **kwargs):
        devices = [
            value.device.type
            for value in (*args, *kwargs.values())
            if isinstance(value, Tensor)
        ]
        # Without a tensor, the complaint is the function's.
        device = devices[0] if devices else 'cpu'
        args = [_upcast(arg) for arg in args]
        kwargs = {key: _upcast(arg) for key, arg in kwargs.items()}
        # Asked first, as losses are called often and entering costs more.
        if not (
            torch.amp.is_autocast_available(device)
            and torch.is_autocast_enabled(device)
        ):
            return func(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return func(*args, **kwargs)

    return wrapped
