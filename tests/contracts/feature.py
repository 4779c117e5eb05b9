"""Losses of a feature, value by value or map by map."""

import math
from collections.abc import Callable
from itertools import product

import torch

import mmkd_plugin.models
from contracts.base import Case, LossContract, dot, noise, pair, pooled, widths
from contracts.inputs import (
    BATCHES,
    BIG,
    EXTREMES,
    FEATURE_SHAPES,
    FEATURE_WIDTHS,
    NO_MAPS,
    NO_TENSOR,
    PLAIN_MAPS,
    SAME_MAPS,
    SHAPES,
    TUPLE,
    TWO,
    WIDTHS,
)


def l1_reference(preds_S, preds_T, reduction='mean'):
    """Average, sum or list the absolute differences."""
    gaps = [
        abs(s - t)
        for s, t in zip(
            preds_S.flatten().tolist(),
            preds_T.flatten().tolist(),
            strict=True,
        )
    ]
    if reduction == 'none':
        return torch.tensor(gaps, dtype=torch.float64).view(preds_S.shape)
    return sum(gaps) / (max(len(gaps), 1) if reduction == 'mean' else 1)


def mse_reference(preds_S, preds_T, reduction='mean'):
    """Average, sum or list the squared differences."""
    squares = [
        (s - t) ** 2
        for s, t in zip(
            preds_S.flatten().tolist(),
            preds_T.flatten().tolist(),
            strict=True,
        )
    ]
    if reduction == 'none':
        return torch.tensor(squares, dtype=torch.float64).view(preds_S.shape)
    return sum(squares) / (max(len(squares), 1) if reduction == 'mean' else 1)


def _channel_rows(preds_S, preds_T):
    """Yield the channels of both, in one size, of each sample."""
    size = [min(preds_S.shape[d], preds_T.shape[d]) for d in (2, 3)]
    for sample in zip(preds_S.tolist(), preds_T.tolist(), strict=True):
        yield [
            [
                [v for row in pooled(grid, *size) for v in row]
                for grid in channels
            ]
            for channels in sample
        ]


def at_reference(preds_S, preds_T, p=2.0):
    """Compare the attention of each place of each sample."""
    terms = []
    for sides in _channel_rows(preds_S, preds_T):
        attention = []
        for channels in sides:
            power = [
                sum(abs(v) ** p for v in place) / len(channels)
                for place in zip(*channels, strict=True)
            ]
            length = math.sqrt(sum(v * v for v in power))
            attention.append([v / length for v in power])
        terms += [(s - t) ** 2 for s, t in zip(*attention, strict=True)]
    return sum(terms) / max(len(terms), 1)


def nst_reference(preds_S, preds_T):
    """Go over all pairs of channels of each sample."""
    total = 0.0
    for sides in _channel_rows(preds_S, preds_T):
        one, other = (
            [[v / math.hypot(*row) for v in row] for row in channels]
            for channels in sides
        )
        for factor, a, b in (
            (1, one, one),
            (1, other, other),
            (-2, one, other),
        ):
            kernels = [dot(x, y) ** 2 for x, y in product(a, b)]
            total += factor * sum(kernels) / len(kernels)
    return total / max(len(preds_S), 1)


def hcl_reference(preds_S, preds_T, levels=(4, 2, 1)):
    """Pool both sides, then compare."""
    height, width = preds_S.shape[2:]
    sizes = [(height, width)] + [
        (min(n, height), min(n, width))
        for n in levels
        if n < max(height, width)
    ]
    total = 0.0
    for k, size in enumerate(sizes):
        squares = [
            (s - t) ** 2
            for grids in zip(
                preds_S.flatten(0, 1).tolist(),
                preds_T.flatten(0, 1).tolist(),
                strict=True,
            )
            for rows in zip(*(pooled(g, *size) for g in grids), strict=True)
            for s, t in zip(*rows, strict=True)
        ]
        total += 0.5**k * sum(squares) / max(len(squares), 1)
    return total / sum(0.5**k for k in range(len(sizes)))


def ofd_reference(preds_S, preds_T, bn_weight, bn_bias, margin_form='formula'):
    """Ask of each value whether it counts."""
    total = 0.0
    margins = []
    for gamma, beta in zip(bn_weight.tolist(), bn_bias.tolist(), strict=True):
        sigma = abs(gamma)
        tail = math.erfc(beta / sigma / math.sqrt(2)) / 2
        density = math.exp(-((beta / sigma) ** 2) / 2) / math.sqrt(2 * math.pi)
        margin = beta - sigma * density / tail
        if margin_form == 'released' and tail <= 0.001:
            margin = -3 * sigma
        margins.append(margin)
    for place in product(*map(range, preds_S.shape)):
        s = preds_S[place].item()
        t = max(preds_T[place].item(), margins[place[1]])
        if s > t or t > 0:
            total += (s - t) ** 2
    return total / max(len(preds_S), 1)


def mgd_reference(preds_S, preds_T):
    """Sum the squared differences, a sample."""
    return mse_reference(preds_S, preds_T, 'sum') / max(len(preds_S), 1)


def _start_scale(init_variance: float, eps: float) -> float:
    start = math.log(math.exp(init_variance - eps) - 1)
    # The parameter is kept in float32.
    return torch.tensor(start, dtype=torch.float32).item()


def vid_reference(preds_S, preds_T, num_channels, init_variance=5.0, eps=1e-5):
    """Average the negative log-likelihood of each value."""
    variance = math.log(1 + math.exp(_start_scale(init_variance, eps))) + eps
    terms = [
        (s - t) ** 2 / (2 * variance) + math.log(variance) / 2
        for s, t in zip(
            preds_S.flatten().tolist(), preds_T.flatten().tolist(), strict=True
        )
    ]
    return sum(terms) / max(len(terms), 1)


def vid_function(preds_S, preds_T, num_channels, init_variance=5.0, eps=1e-5):
    """Call ``vid_loss`` with what the class makes of its options."""
    log_scale = torch.full((num_channels,), _start_scale(init_variance, eps))
    return mmkd_plugin.models.vid_loss(preds_S, preds_T, log_scale, eps)


def normed(*shape: int) -> Callable:
    """Make maps, and the BN layer of the teacher's.

    Its second channel is hardly ever negative.
    """

    def inputs(batch):
        return dict(
            pair(*shape)(batch),
            bn_weight=noise(shape[0], key=3),
            bn_bias=noise(shape[0], key=4).index_fill(0, torch.tensor(1), 9.0),
        )

    return inputs


_BN = dict(bn_weight=torch.tensor([1.0, -2.0, 0.0]), bn_bias=torch.ones(3))
_THREE = dict(num_channels=3)


LOSSES = dict(
    ATLoss=LossContract(
        cases=dict(
            default=Case({}, widths((3, 2, 3), (3, 2, 3))),
            other_width=Case(dict(p=3), widths((3, 4, 4), (2, 2, 2))),
            crossed=Case(dict(p=4.0), widths((3, 2, 5), (3, 4, 2))),
        ),
        reference=at_reference,
        extremes=PLAIN_MAPS,
        rejected=[
            (dict(p=0.5), r'p must be .*>= 1, but got 0\.5'),
            (dict(p='two'), r"p must be .* got 'two'"),
        ],
        rejected_inputs=[
            ({}, TWO, NO_MAPS),
            ({}, TUPLE, NO_TENSOR),
            ({}, BATCHES, 'same batch size, but got 2 and 3'),
        ],
    ),
    HCLLoss=LossContract(
        cases=dict(
            default=Case({}, pair(2, 5, 5)),
            small=Case({}, pair(3, 2, 2)),
            flat=Case({}, pair(2, 2, 6)),
            levels=Case(dict(levels=[3]), pair(2, 4, 4)),
        ),
        reference=hcl_reference,
        extremes=PLAIN_MAPS,
        rejected=[
            (dict(levels=bad), r'levels must be .* fall, but got ' + shown)
            for bad, shown in (
                ((1, 2, 4), r'\(1, 2, 4\)'),
                ((2, 2, 1), r'\(2, 2, 1\)'),
                ((2, 0), r'\(2, 0\)'),
                ((2.0, 1), r'\(2\.0, 1\)'),
                (4, '4'),
            )
        ],
        rejected_inputs=[
            ({}, FEATURE_WIDTHS, FEATURE_SHAPES + 'put a ConvConnector'),
            ({}, TWO, NO_MAPS),
            ({}, TUPLE, NO_TENSOR),
        ],
    ),
    L1Loss=LossContract(
        cases=dict(
            default=Case({}, pair(6)),
            sum=Case(dict(reduction='sum'), pair(3, 2, 2)),
            none=Case(dict(reduction='none'), pair(3, 2, 2)),
            maps=Case({}, pair(3, 2, 4)),
        ),
        reference=l1_reference,
        extremes=EXTREMES,
        rejected=[
            (
                dict(reduction='batchmean'),
                r"reduction must be one of .*'none'.* got 'batchmean'",
            )
        ],
        rejected_inputs=[
            ({}, WIDTHS, SHAPES + '; put a ConvConnector or Linear'),
            ({}, TUPLE, NO_TENSOR),
        ],
    ),
    MGDLoss=LossContract(
        cases=dict(
            default=Case({}, pair(3, 2, 4)), tokens=Case({}, pair(4, 3))
        ),
        reference=mgd_reference,
        extremes=EXTREMES,
        rejected=[],
        rejected_inputs=[
            ({}, FEATURE_WIDTHS, FEATURE_SHAPES + 'put an MGDConnector'),
            ({}, TUPLE, NO_TENSOR),
        ],
    ),
    MSELoss=LossContract(
        cases=dict(
            default=Case({}, pair(6)),
            sum=Case(dict(reduction='sum'), pair(3, 2, 2)),
            none=Case(dict(reduction='none'), pair(3, 2, 2)),
            maps=Case({}, pair(3, 2, 4)),
        ),
        reference=mse_reference,
        extremes=EXTREMES,
        rejected=[
            (
                dict(reduction='batchmean'),
                r"reduction must be one of .*'none'.* got 'batchmean'",
            )
        ],
        rejected_inputs=[
            ({}, WIDTHS, SHAPES + '; put a ConvConnector or Linear'),
            ({}, TUPLE, NO_TENSOR),
        ],
    ),
    NSTLoss=LossContract(
        cases=dict(
            many_places=Case({}, widths((3, 4, 4), (3, 4, 4))),
            few_places=Case({}, widths((3, 2, 2), (3, 2, 2))),
            other_width=Case({}, widths((2, 4, 3), (3, 4, 3))),
            other_size=Case({}, widths((4, 3, 2), (5, 5, 3))),
        ),
        reference=nst_reference,
        extremes=PLAIN_MAPS,
        rejected=[],
        rejected_inputs=[
            ({}, TWO, NO_MAPS),
            ({}, TUPLE, NO_TENSOR),
            ({}, BATCHES, 'same batch size, but got 2 and 3'),
        ],
    ),
    OFDLoss=LossContract(
        cases=dict(
            default=Case({}, normed(3, 2, 4)),
            released=Case(dict(margin_form='released'), normed(3, 2, 4)),
        ),
        reference=ofd_reference,
        extremes={k: dict(made, **_BN) for k, made in PLAIN_MAPS.items()},
        teacher=('preds_T', 'bn_weight', 'bn_bias'),
        rejected=[
            (
                dict(margin_form='paper'),
                r"one of \('formula', 'released'\), but got 'paper'",
            )
        ],
        rejected_inputs=[
            (
                {},
                dict(FEATURE_WIDTHS, **_BN),
                FEATURE_SHAPES + 'put a ConvConnector',
            ),
            ({}, dict(TWO, **_BN), NO_MAPS),
            ({}, dict(TUPLE, **_BN), NO_TENSOR),
            (
                {},
                dict(SAME_MAPS, bn_weight=torch.ones(3), bn_bias=BIG),
                r'bn_bias must .*teacher, 3, but got the shape \(3, 3\)',
            ),
            (
                {},
                dict(SAME_MAPS, bn_weight=None, bn_bias=torch.ones(3)),
                'bn_weight must be a tensor, but got a NoneType',
            ),
        ],
    ),
    VIDLoss=LossContract(
        cases=dict(
            default=Case(_THREE, pair(3, 2, 4)),
            vectors=Case(_THREE, pair(3)),
            sure=Case(dict(_THREE, init_variance=0.5), pair(3, 2, 2)),
            large_eps=Case(dict(_THREE, eps=0.5), pair(3, 2, 2)),
        ),
        reference=vid_reference,
        function=vid_function,
        extremes=EXTREMES,
        rejected=[
            (dict(num_channels=0), 'num_channels must be .*>= 1.* got 0'),
            (dict(num_channels=2.0), r'num_channels must .* got 2\.0'),
            (dict(_THREE, eps=0), 'eps must be .*> 0, but got 0'),
            (
                dict(_THREE, init_variance=1, eps=2.0),
                r'init_variance must be .*> 2\.0, but got 1',
            ),
        ],
        rejected_inputs=[
            (
                _THREE,
                FEATURE_WIDTHS,
                FEATURE_SHAPES + 'put ConvConnectors',
            ),
            (
                dict(num_channels=4),
                TWO,
                r'shape \(N, 4, \*\), as there are 4 .* got \(2, 3\)',
            ),
            (_THREE, TUPLE, NO_TENSOR),
        ],
    ),
)
