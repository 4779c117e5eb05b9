"""Modes, statistics and memory of networks, seen from outside."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import broadcast, is_distributed
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def memory_format_of(net: nn.Module) -> torch.memory_format:
    """Find out whether a network's convolutions are in channels-last.

    Args:
        net (nn.Module): The network.

    Returns:
        torch.memory_format: ``torch.channels_last`` or
        ``torch.contiguous_format``.
    """
    # Those of one pixel, or of one channel, are in both formats.
    last = any(
        weight.dim() == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in net.parameters()
    )
    return torch.channels_last if last else torch.contiguous_format


@torch.no_grad()
def share_buffers(net: nn.Module) -> None:
    """Give all processes the first one's running statistics.

    A checkpoint holds those of the first process. Where statistics have a
    part in training, a resumed run is the same as an uninterrupted one only
    if all use these.

    Args:
        net (nn.Module): The network. Its integer buffers, which count
            batches, are left alone.
    """
    buffers = [b for b in net.buffers() if b.is_floating_point()]
    if not buffers or not is_distributed():
        return
    # One transfer for all of them.
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    broadcast(flat)
    sizes = [buffer.numel() for buffer in buffers]
    for buffer, values in zip(buffers, flat.split(sizes), strict=True):
        buffer.copy_(values.view_as(buffer))


@contextmanager
def in_mode(net: nn.Module, mode: str) -> Iterator[None]:
    """Put a network into a mode, and each module back to its own."""
    before = [(module, module.training) for module in net.modules()]
    try:
        net.train(mode == 'train')
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Keep a network's gradients and running statistics as they are."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    # In train mode, they then take the statistics of the batch all the same;
    # in eval mode, those that they have.
    norms = [
        module
        for module in net.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.track_running_stats = True
