"""Losses whose weights depend on how well the student knows a label."""

import math

import torch
from torch.nn.functional import kl_div

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
)
from contracts.inputs import (
    BAD_REDUCTION,
    BAD_TAU,
    LABELED,
    LABELS_OF_TWO,
    NO_TENSOR,
    ONE_CLASS,
    SAME_MAPS,
    SHAPES,
    TUPLE,
    TWO,
    WIDTHS,
    wrong_labels,
)


def _label_weight(row_S, row_T, label) -> float:
    cost_S, cost_T = (-log_softmax_row(row)[label] for row in (row_S, row_T))
    if cost_T == math.inf:
        return 0.0
    return 1 - math.exp(-cost_S / (cost_T + 1e-7))


def wsld_reference(
    preds_S, preds_T, gt_labels, tau=2.0, reduction='batchmean'
):
    """Go from sample to sample."""
    terms = []
    for row_S, row_T, label in labeled_rows(preds_S, preds_T, gt_labels):
        soft = [[z / tau for z in row] for row in (row_S, row_T)]
        weight = _label_weight(row_S, row_T, label)
        terms.append(weight * tau**2 * divergence(*soft))
    return reduced(terms, reduction)


def wsld_held(inputs, options):
    """Let the weights be those of the inputs."""
    tau = options.get('tau', 2.0)
    rows = labeled_rows(**inputs)
    weights = torch.tensor([[tau**2 * _label_weight(*row)] for row in rows])
    if options.get('reduction', 'batchmean') == 'batchmean':
        weights = weights / len(weights)

    def held(preds_S, preds_T, gt_labels):
        log_S = torch.log_softmax(preds_S / tau, dim=1)
        prob_T = torch.softmax(preds_T / tau, dim=1)
        return weights * kl_div(
            log_S.masked_fill(prob_T == 0, 0), prob_T, reduction='none'
        )

    return held


LOSSES = dict(
    WSLDLoss=LossContract(
        cases=dict(
            default=Case({}, labeled(pair(5))),
            tau=Case(dict(tau=4.0), labeled(pair(5))),
            sum=Case(dict(reduction='sum'), labeled(pair(5))),
            none=Case(dict(reduction='none'), labeled(pair(5))),
            masked=Case({}, labeled(masked(pair(5), 'preds_T'))),
            masked_both=Case(
                {}, labeled(masked(pair(5), 'preds_S', 'preds_T'))
            ),
        ),
        reference=wsld_reference,
        held=wsld_held,
        extremes=LABELED,
        rejected=[*BAD_TAU, BAD_REDUCTION],
        rejected_inputs=[
            ({}, dict(WIDTHS, gt_labels=LABELS_OF_TWO), SHAPES),
            ({}, dict(TUPLE, gt_labels=LABELS_OF_TWO), NO_TENSOR),
            ({}, dict(TWO, gt_labels=None), 'are needed, but got None'),
            ({}, ONE_CLASS, 'at least 2 classes are needed, but got 1'),
            (
                {},
                dict(SAME_MAPS, gt_labels=LABELS_OF_TWO),
                r'shape \(N, C\), but got \(2, 3, 2, 2\); .* SDDLoss',
            ),
            *wrong_labels(TWO),
        ],
    ),
)
