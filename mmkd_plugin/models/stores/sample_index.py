"""Indices of samples: their check, and how ranks share what they write."""

import torch
from mmengine import dist
from torch import Tensor

from mmkd_plugin.utils.checks import check_tensors


def checked_index(sample_idx: Tensor, num_samples: int) -> Tensor:
    """Return the indices of samples as int64 if they are such.

    The range is looked at on the CPU alone: elsewhere this would wait for
    the device.

    Args:
        sample_idx (Tensor): Positions in the data set, an integer tensor of
            shape ``(B,)``.
        num_samples (int): How many samples the store has.

    Returns:
        Tensor: int64, shape ``(B,)``.

    Raises:
        ValueError: If dtype, shape or values are not those of indices.
    """
    check_tensors(sample_idx=sample_idx)
    if (
        sample_idx.is_floating_point()
        or sample_idx.dtype == torch.bool
        or sample_idx.dim() != 1
    ):
        raise ValueError(
            f'sample_idx must be integers of shape (B,), but got '
            f'{sample_idx.dtype} of shape {tuple(sample_idx.shape)}'
        )
    if sample_idx.numel() and sample_idx.device.type == 'cpu':
        lowest, highest = sample_idx.aminmax()
        if lowest < 0 or highest >= num_samples:
            bad = lowest if lowest < 0 else highest
            raise ValueError(
                f'sample_idx must be in [0, {num_samples}), the samples of '
                f'the store, but got {bad.item()}'
            )
    return sample_idx.long()


def of_all_ranks(values: Tensor) -> Tensor:
    """Concatenate what the ranks have, in the order of the ranks.

    Args:
        values (Tensor): Shape ``(B, *)``, the same on every rank.

    Returns:
        Tensor: Shape ``(ranks * B, *)``.
    """
    if not dist.is_distributed():
        return values
    return torch.cat(dist.all_gather(values.contiguous()))


def last_places(index: Tensor) -> Tensor:
    """Find where each index stands for the last time.

    Writing the rows at these places, the ranks keep the same one of several
    rows of an index; else a GPU may keep any.

    Args:
        index (Tensor): int64, shape ``(B,)``.

    Returns:
        Tensor: int64, shape ``(B,)``.

    Examples:
        >>> import torch
        >>> last_places(torch.tensor([7, 3, 7, 5]))
        tensor([2, 1, 2, 3])
    """
    index = index.contiguous()
    ordered, places = index.sort(stable=True)
    return places[torch.searchsorted(ordered, index, right=True) - 1]
