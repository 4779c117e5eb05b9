"""Losses of a teacher's logits."""

import math
from itertools import product

import torch

from contracts.base import (
    Case,
    LossContract,
    divergence,
    labeled,
    labeled_rows,
    log_softmax_row,
    masked,
    pair,
    reduced,
    without,
)
from contracts.inputs import (
    BAD_REDUCTION,
    BAD_TAU,
    EXTREMES,
    LABELED,
    NO_TENSOR,
    ONE_CLASS,
    SAME_MAPS,
    SHAPES,
    TUPLE,
    TWO,
    WIDTHS,
    wrong_labels,
)


def kl_reference(preds_S, preds_T, tau=1.0, reduction='batchmean'):
    """Sum tau^2 p_T (log p_T - log p_S) over the classes that p_T has."""
    batch, classes = preds_S.shape[:2]
    places = list(product(*(range(size) for size in preds_S.shape[2:])))
    terms = torch.zeros(batch, *preds_S.shape[2:], dtype=torch.float64)
    for i, place in product(range(batch), places):
        where = [(i, c, *place) for c in range(classes)]
        log_s = log_softmax_row([preds_S[w].item() / tau for w in where])
        log_t = log_softmax_row([preds_T[w].item() / tau for w in where])
        terms[(i, *place)] = tau**2 * sum(
            math.exp(t) * (t - s)
            for s, t in zip(log_s, log_t, strict=True)
            if t != -math.inf
        )
    if reduction == 'none':
        return terms
    divisor = dict(batchmean=batch, mean=preds_S.numel(), sum=1)[reduction]
    return terms.sum() / max(divisor, 1)


def _target_divergence(row_S, row_T, label: int) -> float:
    """Do the same for two classes, the target and all others together."""
    rows = []
    for row in (row_S, row_T):
        rest = without(row, label)
        top = max(rest)
        total = top + math.log(sum(math.exp(z - top) for z in rest))
        rows.append([row[label], total])
    return divergence(*rows)


def dkd_reference(
    preds_S,
    preds_T,
    gt_labels,
    alpha=1.0,
    beta=8.0,
    tau=4.0,
    reduction='batchmean',
):
    """Add the divergences of the target and of the other classes."""
    terms = []
    for row_S, row_T, label in labeled_rows(preds_S, preds_T, gt_labels):
        row_S, row_T = ([z / tau for z in row] for row in (row_S, row_T))
        target = _target_divergence(row_S, row_T, label)
        others = divergence(without(row_S, label), without(row_T, label))
        terms.append(tau**2 * (alpha * target + beta * others))
    return reduced(terms, reduction)


def nkd_reference(
    preds_S,
    preds_T,
    gt_labels,
    gamma=1.5,
    tau=1.0,
    mask_target=True,
    reduction='batchmean',
):
    """Add the cross entropies of the target and of the other classes."""
    terms = []
    for row_S, row_T, label in labeled_rows(preds_S, preds_T, gt_labels):
        log_S, log_T = log_softmax_row(row_S), log_softmax_row(row_T)
        target = 0.0
        if log_T[label] != -math.inf:
            target = -math.exp(log_T[label]) * log_S[label]
        soft = [[z / tau for z in row] for row in (row_S, row_T)]
        if mask_target:
            soft = [without(row, label) for row in soft]
        others = sum(
            math.exp(t) * s
            for s, t in zip(*map(log_softmax_row, soft), strict=True)
            if t != -math.inf
        )
        terms.append(target - gamma * tau**2 * others)
    return reduced(terms, reduction)


def _correlation_gap(line_S: list[float], line_T: list[float]) -> float:
    """Get 1 - Pearson; 0 where the second is constant, 1 for the first."""
    count = len(line_S)
    gaps = []
    for line in (line_S, line_T):
        mean = sum(line) / count
        gaps.append([v - mean for v in line])
    squares = [sum(g * g for g in line) for line in gaps]
    if squares[1] == 0:
        return 0.0
    if squares[0] == 0:
        return 1.0
    product_ = sum(s * t for s, t in zip(*gaps, strict=True))
    return 1 - product_ / math.sqrt(squares[0] * squares[1])


def dist_reference(preds_S, preds_T, beta=1.0, gamma=1.0, tau=1.0):
    """Average the correlation gaps over samples, and over classes."""
    if not len(preds_S):
        return 0.0
    prob_S, prob_T = (
        [
            [math.exp(z) for z in log_softmax_row([v / tau for v in row])]
            for row in preds.tolist()
        ]
        for preds in (preds_S, preds_T)
    )
    rows = list(map(_correlation_gap, prob_S, prob_T))
    columns = [
        _correlation_gap(
            [row[c] for row in prob_S], [row[c] for row in prob_T]
        )
        for c in range(len(prob_S[0]))
    ]
    return tau**2 * (
        beta * sum(rows) / len(rows) + gamma * sum(columns) / len(columns)
    )


LOSSES = dict(
    DISTLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            cifar=Case(dict(beta=2.0, gamma=2.0, tau=4.0), pair(5)),
            inter=Case(dict(gamma=0, tau=2.0), pair(5)),
            weights=Case(dict(beta=0.5, gamma=3.0), pair(5)),
            masked=Case({}, masked(pair(5), 'preds_T')),
            masked_both=Case(
                dict(tau=2.0), masked(pair(5), 'preds_S', 'preds_T')
            ),
        ),
        reference=dist_reference,
        extremes=EXTREMES,
        rejected=[
            *BAD_TAU,
            (dict(beta=-1), r'beta must be .*>= 0, but got -1'),
            (dict(gamma='2'), r"gamma must be .*>= 0, but got '2'"),
        ],
        rejected_inputs=[
            ({}, WIDTHS, SHAPES),
            ({}, TUPLE, NO_TENSOR),
            ({}, SAME_MAPS, r'shape \(N, C\), but got \(2, 3, 2, 2\)'),
        ],
    ),
    DKDLoss=LossContract(
        cases=dict(
            default=Case({}, labeled(pair(5))),
            weights=Case(dict(alpha=0.5, beta=2.0, tau=1.0), labeled(pair(5))),
            target=Case(dict(beta=0.0, tau=2.0), labeled(pair(5))),
            others=Case(dict(alpha=0.0, tau=2.0), labeled(pair(5))),
            sum=Case(dict(reduction='sum'), labeled(pair(5))),
            none=Case(dict(reduction='none'), labeled(pair(5))),
            masked=Case({}, labeled(masked(pair(5), 'preds_T'))),
            masked_both=Case(
                {}, labeled(masked(pair(5), 'preds_S', 'preds_T'))
            ),
            two_classes=Case({}, labeled(pair(2))),
        ),
        reference=dkd_reference,
        extremes=LABELED,
        rejected=[
            *BAD_TAU,
            BAD_REDUCTION,
            (dict(alpha=-1.0), r'alpha must be .*>= 0, but got -1\.0'),
            (dict(beta=math.inf), r'beta must be .* got inf'),
        ],
        rejected_inputs=[
            ({}, dict(WIDTHS, gt_labels=torch.tensor([0, 1])), SHAPES),
            ({}, dict(TUPLE, gt_labels=torch.tensor([0, 1])), NO_TENSOR),
            ({}, dict(TWO, gt_labels=None), 'are needed, but got None'),
            ({}, ONE_CLASS, 'at least 2 classes are needed, but got 1'),
            (
                {},
                dict(SAME_MAPS, gt_labels=torch.tensor([0, 1])),
                r'shape \(N, C\), but got \(2, 3, 2, 2\); .* SDDLoss',
            ),
            *wrong_labels(TWO),
        ],
    ),
    KLDivergence=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            warm=Case(dict(tau=4.0), pair(5)),
            mean=Case(dict(tau=2.0, reduction='mean'), pair(5)),
            sum=Case(dict(tau=2.0, reduction='sum'), pair(5)),
            none=Case(dict(tau=2.0, reduction='none'), pair(5)),
            maps=Case(dict(tau=2.0), pair(5, 2, 3)),
            maps_none=Case(dict(reduction='none'), pair(5, 2, 3)),
            masked=Case(dict(tau=4.0), masked(pair(5), 'preds_T')),
            masked_both=Case(
                dict(tau=4.0), masked(pair(5), 'preds_S', 'preds_T')
            ),
        ),
        reference=kl_reference,
        extremes=EXTREMES,
        rejected=[
            *BAD_TAU,
            (
                dict(reduction='average'),
                r"reduction must be one of .*'batchmean'.* got 'average'",
            ),
        ],
        rejected_inputs=[({}, WIDTHS, SHAPES), ({}, TUPLE, NO_TENSOR)],
    ),
    NKDLoss=LossContract(
        cases=dict(
            default=Case({}, labeled(pair(5))),
            cifar=Case(dict(gamma=3.5, tau=3.0), labeled(pair(5))),
            unmasked=Case(dict(tau=4.0, mask_target=False), labeled(pair(5))),
            sum=Case(dict(reduction='sum'), labeled(pair(5))),
            none=Case(dict(reduction='none', tau=2.0), labeled(pair(5))),
            masked=Case({}, labeled(masked(pair(5), 'preds_T'))),
            masked_both=Case(
                {}, labeled(masked(pair(5), 'preds_S', 'preds_T'))
            ),
            unmasked_target_masked_both=Case(
                dict(mask_target=False),
                labeled(masked(pair(5), 'preds_S', 'preds_T')),
            ),
            two_classes=Case({}, labeled(pair(2))),
        ),
        reference=nkd_reference,
        extremes=LABELED,
        rejected=[
            *BAD_TAU,
            BAD_REDUCTION,
            (dict(gamma=-1), r'gamma must be .*>= 0, but got -1'),
            (dict(mask_target=1), 'mask_target must be True or .* got 1'),
        ],
        rejected_inputs=[
            ({}, dict(WIDTHS, gt_labels=torch.tensor([0, 1])), SHAPES),
            ({}, dict(TUPLE, gt_labels=torch.tensor([0, 1])), NO_TENSOR),
            ({}, dict(TWO, gt_labels=None), 'are needed, but got None'),
            ({}, ONE_CLASS, 'at least 2 classes are needed, but got 1'),
            (
                {},
                dict(SAME_MAPS, gt_labels=torch.tensor([0, 1])),
                r'shape \(N, C\), but got \(2, 3, 2, 2\); .* SDDLoss',
            ),
            *wrong_labels(TWO),
        ],
    ),
)
