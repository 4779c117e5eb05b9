"""Losses of the relations between samples, or between two layers."""

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from contracts.base import (
    Case,
    LossContract,
    dot,
    gram,
    huber,
    log_softmax_row,
    masked,
    noise,
    pair,
    squared_gaps,
    unit_row,
    widths,
)
from contracts.inputs import (
    BAD_ROWS,
    BAD_TAU,
    EXTREMES,
    NO_TENSOR,
    NO_WEIGHT,
    ROW_EXTREMES,
    SHAPES,
    TUPLE,
    WIDTHS,
)


def _relation_rows(points: list[list[float]]) -> list[list[float]]:
    count = len(points)
    distances = [[math.dist(a, b) for b in points] for a in points]
    mean = sum(map(sum, distances)) / (count * (count - 1))
    if mean <= 1e-6:
        return [[0.0] * count for _ in points]
    return [[d / mean for d in row] for row in distances]


def relation_reference(preds_S, preds_T, tau=4.0, space='prob', gather=False):
    """Average the Huber distance of the relations over all pairs."""
    count = len(preds_S)
    if count < 2:
        return 0.0
    rows = {}
    for name, preds in dict(S=preds_S, T=preds_T).items():
        points = preds.tolist()
        if space == 'prob':
            points = [
                [math.exp(z) for z in log_softmax_row([v / tau for v in row])]
                for row in points
            ]
        rows[name] = _relation_rows(points)
    total = 0.0
    for i, j in product(range(count), range(count)):
        gap = abs(rows['S'][i][j] - rows['T'][i][j])
        total += gap**2 / 2 if gap <= 1 else gap - 0.5
    return total / count**2


def _rkd_distances(rows, squared):
    count = len(rows)
    found = [
        [max(math.dist(a, b), 1e-6) ** (2 if squared else 1) for b in rows]
        for a in rows
    ]
    for i in range(count):
        found[i][i] = 0.0
    mean = sum(map(sum, found)) / (count * (count - 1))
    return [[d / mean for d in row] for row in found]


def _rkd_angle(rows, i, j, k):
    lines = [
        unit_row([a - b for a, b in zip(rows[m], rows[i], strict=True)])
        for m in (j, k)
    ]
    return dot(*lines)


def rkd_reference(
    preds_S,
    preds_T,
    distance_weight=25.0,
    angle_weight=50.0,
    squared=False,
    normalize=False,
):
    """Go over all pairs, then over all triplets."""
    sides = [preds.flatten(1).tolist() for preds in (preds_S, preds_T)]
    count = len(sides[0])
    if count < 2:
        return 0.0
    if normalize:
        sides = [list(map(unit_row, rows)) for rows in sides]
    far_S, far_T = (_rkd_distances(rows, squared) for rows in sides)
    every = range(count)
    pairs = sum(
        huber(far_S[i][j] - far_T[i][j]) for i, j in product(every, every)
    )
    triplets = sum(
        huber(_rkd_angle(sides[0], *at) - _rkd_angle(sides[1], *at))
        for at in product(every, every, every)
    )
    return (
        distance_weight * pairs / count**2 + angle_weight * triplets / count**3
    )


def sp_reference(preds_S, preds_T):
    """Average the squared gaps of the similarities, normalised by row."""
    count = len(preds_S)
    if count < 2:
        return 0.0
    likes = [
        list(map(unit_row, gram(preds.flatten(1).tolist())))
        for preds in (preds_S, preds_T)
    ]
    return squared_gaps(*likes) / count**2


def pkt_reference(preds_S, preds_T):
    """Average p_T log(p_T / p_S) of the neighbours of every sample."""
    count = len(preds_S)
    if count < 2:
        return 0.0
    near = []
    for preds in (preds_S, preds_T):
        units = [unit_row(row, 1e-7) for row in preds.flatten(1).tolist()]
        rows = [[(c + 1) / 2 for c in row] for row in gram(units)]
        near.append([[k / sum(row) for k in row] for row in rows])
    total = sum(
        near[1][i][j] * math.log((near[1][i][j] + 1e-7) / (p + 1e-7))
        for i, row in enumerate(near[0])
        for j, p in enumerate(row)
    )
    return total / count**2


def cc_reference(
    preds_S, preds_T, gamma=0.4, order=2, instance_weight=0.0, form='kernel'
):
    """Sum the Taylor terms of every pair, or go along the batch."""
    raw = [preds.flatten(1).tolist() for preds in (preds_S, preds_T)]
    units = [list(map(unit_row, rows)) for rows in raw]
    count, total = len(raw[0]), 0.0
    if form == 'neighbor':
        gaps = [
            [abs(s - t) for s, t in zip(a, b, strict=True)]
            for a, b in zip(*raw, strict=True)
        ]
        for i in range(count - 1):
            total += dot(gaps[i], gaps[i + 1]) / (count - 1)
    elif count > 1:
        kernels = [
            [
                [
                    math.exp(-2 * gamma)
                    * sum(
                        (2 * gamma * cosine) ** p / math.factorial(p)
                        for p in range(order + 1)
                    )
                    for cosine in row
                ]
                for row in gram(rows)
            ]
            for rows in units
        ]
        total = squared_gaps(*kernels) / count**2
    if instance_weight:
        total += instance_weight * squared_gaps(*units) / max(count, 1)
    return total


def _shrunk(grid: list[list[float]], height: int, width: int, pool: str):
    """Pool a grid of numbers over cells that may overlap."""
    tall, wide = len(grid), len(grid[0])
    out = []
    for y, x in product(range(height), range(width)):
        cell = [
            grid[row][column]
            for row in range(y * tall // height, -(-(y + 1) * tall // height))
            for column in range(x * wide // width, -(-(x + 1) * wide // width))
        ]
        out.append(max(cell) if pool == 'max' else sum(cell) / len(cell))
    return out


def fsp_reference(bottom_S, top_S, bottom_T, top_T, pool='avg'):
    """Average the squared gaps of the products of all channels."""
    terms = []
    for n in range(len(bottom_S)):
        flows = []
        for bottom, top in ((bottom_S, top_S), (bottom_T, top_T)):
            size = [min(bottom.shape[d], top.shape[d]) for d in (2, 3)]
            low, high = (
                [_shrunk(grid, *size, pool) for grid in value[n].tolist()]
                for value in (bottom, top)
            )
            flows.append(
                [dot(a, b) / math.prod(size) for a in low for b in high]
            )
        terms += [(s - t) ** 2 for s, t in zip(*flows, strict=True)]
    return sum(terms) / max(len(terms), 1)


def two_taps(*shapes: tuple) -> Callable[[int], dict[str, Tensor]]:
    """Make maps of two layers a side, batch size apart."""
    names = ('bottom_S', 'top_S', 'bottom_T', 'top_T')

    def inputs(batch):
        return {
            name: noise(batch, *shape, key=key)
            for key, (name, shape) in enumerate(
                zip(names, shapes, strict=True)
            )
        }

    return inputs


_TAPS = ((3, 4, 4), (2, 4, 4), (3, 4, 4), (2, 4, 4))
_POOLED_TAPS = ((3, 5, 4), (2, 2, 3), (3, 3, 4), (2, 7, 2))
# Products of squares: with larger ones the gradient itself is none of
# float16's numbers.
_FLOWS = {
    key: {
        f'{place}_{side}': (made[f'preds_{side}'].clamp(-20, 20))[
            ..., None, None
        ].repeat(1, 1, size, size)
        for place, size in (('bottom', 4), ('top', 2))
        for side in 'ST'
    }
    for key, made in ROW_EXTREMES.items()
    if key in ('big', 'flat', 'all_equal')
}


LOSSES = dict(
    CCLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            widths=Case(dict(gamma=1.5, order=4), widths((2, 3, 2), (5,))),
            linear=Case(dict(order=1), pair(5)),
            instances=Case(dict(instance_weight=0.5), pair(5)),
            neighbor=Case(
                dict(form='neighbor', instance_weight=0.5), pair(3, 2)
            ),
        ),
        reference=cc_reference,
        extremes=ROW_EXTREMES,
        rejected=[
            (dict(gamma=0), r'gamma must be .*> 0, but got 0'),
            (dict(order=0), r'order must be .*>= 1, but got 0'),
            (dict(order=2.0), r'order must be an integer, but got 2\.0'),
            (dict(instance_weight=-1), 'instance_weight .* got -1'),
            (
                dict(form='rbf'),
                r"form must be one of \('kernel', 'neighbor'\), but got 'rbf'",
            ),
        ],
        rejected_inputs=[
            *BAD_ROWS,
            *(
                (options, WIDTHS, SHAPES + '; put a ConvConnector or Lin')
                for options in (
                    dict(form='neighbor'),
                    dict(instance_weight=1.0),
                )
            ),
        ],
    ),
    FSPLoss=LossContract(
        cases=dict(
            default=Case({}, two_taps(*_POOLED_TAPS)),
            maximum=Case(dict(pool='max'), two_taps(*_POOLED_TAPS)),
        ),
        reference=fsp_reference,
        extremes=_FLOWS,
        rejected=[
            (dict(pool='sum'), r"pool must be one of .*'max'.* got 'sum'"),
        ],
        rejected_inputs=[
            (
                {},
                dict(two_taps(*_TAPS)(2), top_T=torch.zeros(2, 5)),
                r'top_T must be a map of .* but got \(2, 5\)',
            ),
            (
                {},
                dict(two_taps(*_TAPS)(2), top_T=torch.zeros(2, 5, 4, 4)),
                'top_S and top_T must .* got 2 and 5; put a ConvConnector',
            ),
            (
                {},
                dict(two_taps(*_TAPS)(2), bottom_S=torch.zeros(1, 3, 4, 4)),
                "same batch size, got {'bottom_S': 1, 'top_S': 2, ",
            ),
            (
                {},
                dict(two_taps(*_TAPS)(2), bottom_S=None),
                'bottom_S must be a tensor, but got a NoneType',
            ),
        ],
        student=('bottom_S', 'top_S'),
        teacher=('bottom_T', 'top_T'),
    ),
    PKTLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            widths=Case({}, widths((2, 3, 2), (5,))),
        ),
        reference=pkt_reference,
        extremes=ROW_EXTREMES,
        rejected=NO_WEIGHT,
        rejected_inputs=BAD_ROWS,
    ),
    RKDLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            widths=Case({}, widths((2, 2, 2), (5,))),
            distance=Case(
                dict(distance_weight=1.0, angle_weight=0.0), pair(5)
            ),
            angle=Case(dict(distance_weight=0, angle_weight=2.0), pair(5)),
            squared=Case(dict(squared=True), pair(5)),
            normalized=Case(dict(normalize=True), widths((5,), (3,))),
        ),
        reference=rkd_reference,
        extremes=ROW_EXTREMES,
        rejected=[
            (dict(distance_weight=-1), 'distance_weight .*>= 0, but got -1'),
            (dict(angle_weight=math.nan), 'angle_weight must .* got nan'),
            (
                dict(distance_weight=0, angle_weight=0.0),
                r'distance_weight or angle_weight .* got 0 and 0\.0',
            ),
            (dict(squared=1), 'squared must be True or False, but got 1'),
            (dict(normalize='l2'), "normalize must be .* got 'l2'"),
        ],
        rejected_inputs=BAD_ROWS,
    ),
    SPLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            widths=Case({}, widths((2, 3, 2), (5,))),
        ),
        reference=sp_reference,
        extremes=ROW_EXTREMES,
        rejected=NO_WEIGHT,
        rejected_inputs=BAD_ROWS,
    ),
    StructuredRelationLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            cold=Case(dict(tau=1.0), pair(5)),
            logit=Case(dict(space='logit'), pair(5)),
            gather_alone=Case(dict(gather=True), pair(5)),
            masked=Case({}, masked(pair(5), 'preds_T')),
            masked_both=Case({}, masked(pair(5), 'preds_S', 'preds_T')),
        ),
        reference=relation_reference,
        extremes=EXTREMES,
        rejected=[
            *BAD_TAU,
            (
                dict(space='feature'),
                r"space must be one of \('prob', 'logit'\), .* got 'feature'",
            ),
        ],
        rejected_inputs=[
            (
                {},
                dict(preds_S=torch.zeros(2, 3), preds_T=torch.zeros(3, 3)),
                'same batch size, but got 2 and 3',
            ),
            ({}, TUPLE, NO_TENSOR),
            *(
                (
                    dict(space='logit'),
                    masked(pair(3), name)(2),
                    f'unmasked logits: .* off its {name}, or use',
                )
                for name in ('preds_S', 'preds_T')
            ),
        ],
    ),
)
