"""Negatives that depend on seed, step and sample alone."""

from typing import Optional

import torch
from torch import Tensor

_BITS = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
# The seed of another user of these numbers gives others.
_STREAM = 0x632BE59BD9B4E019


def _signed(word: int) -> int:
    """Get the int64 of the same bits as a 64-bit word."""
    word &= _BITS
    return word - 2**64 if word >> 63 else word


def _mixed(word: int) -> int:
    """Scramble a 64-bit word, one to one."""
    word &= _BITS
    word = (word ^ (word >> 30)) * _FIRST & _BITS
    word = (word ^ (word >> 27)) * _SECOND & _BITS
    return word ^ (word >> 31)


def _fold_(words: Tensor, shift: int, scratch: Tensor) -> None:
    # int64 is shifted with its sign, which the mask takes away.
    torch.bitwise_right_shift(words, shift, out=scratch)
    words ^= scratch.bitwise_and_(2 ** (64 - shift) - 1)


def _mix_(words: Tensor) -> Tensor:
    """Scramble int64 words in place, but for the last step of `_mixed`.

    That one leaves the upper half as it is. Products wrap around.
    """
    scratch = torch.empty_like(words)
    _fold_(words, 30, scratch)
    words *= _signed(_FIRST)
    _fold_(words, 27, scratch)
    words *= _signed(_SECOND)
    return words


def counter_draws(
    seed: int, step: int, sample_idx: Tensor, count: int, below: Tensor
) -> Tensor:
    r"""Draw integers for samples, whatever batch and process they are in.

    The numbers of a sample are a stream of their own of the SplitMix64
    generator, whose k-th number is :math:`h(start + k g)`, here with the
    start :math:`h(h(h(seed) + step) + g \cdot sample)`. All of it is integer
    arithmetic, so every device draws the same.

    Reference:
        Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA
        2014, https://doi.org/10.1145/2660193.2660195. The upper 32 bits are
        used, scaled to the range, as in Lemire, Fast Random Integer
        Generation in an Interval, 2019, https://arxiv.org/abs/1805.10941,
        without rejection: the probability of a number is off by at most
        :math:`n / 2^{32}` of itself.

    Args:
        seed (int): Seed of the run.
        step (int): Training iteration.
        sample_idx (Tensor): int64, shape ``(N,)``.
        count (int): How many numbers a sample gets, K.
        below (Tensor): Exclusive upper bounds, int64, less than
            :math:`2^{31}`, shape ``(N,)``.

    Returns:
        Tensor: int64, shape ``(N, K)``.
    """
    start = _mixed(_mixed(seed ^ _STREAM) + step)
    keys = sample_idx.unsqueeze(1) * _signed(_STEP) + _signed(start)
    keys = _mix_(keys)
    _fold_(keys, 31, torch.empty_like(keys))
    places = torch.arange(1, count + 1, device=keys.device)
    words = _mix_(keys + places * _signed(_STEP))
    words >>= 32
    words &= 2**32 - 1
    words *= below.unsqueeze(1)
    words >>= 32
    return words


def contrast_indices(
    seed: int,
    step: int,
    sample_idx: Tensor,
    num_negatives: int,
    num_samples: int,
    spans: Optional[tuple[Tensor, Tensor, Tensor]] = None,
) -> Tensor:
    """Draw negatives for samples, uniformly and with replacement.

    Args:
        seed (int): Seed of the run.
        step (int): Training iteration.
        sample_idx (Tensor): Positions in the data set, int64, shape ``(N,)``.
        num_negatives (int): How many a sample gets, K.
        num_samples (int): Size of the data set.
        spans (tuple[Tensor, Tensor, Tensor], optional): All int64 and of
            shape ``(num_samples,)``: the samples sorted by class, and for
            each sample where its class begins there and how many it has.
            Then its class is left out. Defaults to None: the sample itself
            is.

    Returns:
        Tensor: int64, shape ``(N, 1 + K)``; the sample, then its negatives.
    """
    if spans is None:
        first, count = sample_idx, torch.ones_like(sample_idx)
    else:
        first, count = spans[1][sample_idx], spans[2][sample_idx]
    # The first column is drawn in vain: to add one costs more.
    drawn = counter_draws(
        seed, step, sample_idx, 1 + num_negatives, num_samples - count
    )
    # Jump over the own span: -1 before it, 0 behind. Comparing costs more.
    jump = (drawn - first.unsqueeze(1)).bitwise_right_shift_(63)
    drawn += jump.add_(1).mul_(count.unsqueeze(1))
    if spans is not None:
        drawn = spans[0].index_select(0, drawn.view(-1)).view(drawn.shape)
    drawn[:, 0] = sample_idx
    return drawn
