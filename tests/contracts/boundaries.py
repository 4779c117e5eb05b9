"""Losses of where neurons become active."""

from contracts.base import Case, LossContract, pair
from contracts.inputs import (
    EXTREMES,
    FEATURE_SHAPES,
    FEATURE_WIDTHS,
    NO_TENSOR,
    TUPLE,
)


def ab_reference(preds_S, preds_T, margin=1.0):
    """Ask of each value whether it is on its side, by the margin."""
    total = 0.0
    for s, t in zip(
        preds_S.flatten().tolist(), preds_T.flatten().tolist(), strict=True
    ):
        if t > 0 and s < margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / max(len(preds_S), 1)


LOSSES = dict(
    ABLoss=LossContract(
        cases=dict(
            default=Case({}, pair(3, 2, 4)),
            margin=Case(dict(margin=0.25), pair(3, 2, 4)),
            vectors=Case({}, pair(6)),
        ),
        reference=ab_reference,
        extremes=EXTREMES,
        rejected=[
            (dict(margin=0), r'margin must be .*> 0, but got 0'),
            (dict(margin=-1.0), r'margin must be .* got -1\.0'),
        ],
        rejected_inputs=[
            ({}, FEATURE_WIDTHS, FEATURE_SHAPES + 'put a ConvConnector'),
            ({}, TUPLE, NO_TENSOR),
        ],
    ),
)
