"""Losses of a network that is its own teacher, or has none."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch

from contracts.base import (
    Case,
    ConnectorContract,
    LossContract,
    divergence,
    labeled,
    labeled_rows,
    log_softmax_row,
    noise,
    pair,
    reduced,
)
from contracts.connectors import conv_reference, linear_reference
from contracts.inputs import (
    BAD_REDUCTION,
    BAD_TAU,
    BIG,
    EXTREMES,
    LABELED,
    LABELS_OF_TWO,
    NO_TENSOR,
    SAME_MAPS,
    SHAPES,
    THIRDS,
    TUPLE,
    WIDTHS,
    wrong_labels,
)
from contracts.response import kl_reference


def tfkd_reference(
    preds_S,
    gt_labels,
    alpha=0.1,
    tau=20.0,
    correct_prob=0.99,
    multiplier=1.0,
    official_compat=False,
    reduction='batchmean',
):
    """Add cross entropy and the divergence from a made-up teacher."""
    terms = []
    for row, label in zip(preds_S.tolist(), gt_labels.tolist(), strict=True):
        made_up = [(1 - correct_prob) / (len(row) - 1)] * len(row)
        made_up[label] = correct_prob
        if official_compat:
            soft = divergence(row, [p / tau for p in made_up]) / len(row)
        else:
            soft = divergence(
                [z / tau for z in row], [math.log(p) / tau for p in made_up]
            )
        hard = -log_softmax_row(row)[label]
        terms.append((1 - alpha) * hard + alpha * multiplier * soft)
    return reduced(terms, reduction)


def pskd_reference(
    preds_S, past_probs, gt_labels, alpha=0.8, reduction='batchmean'
):
    """Sum the cross entropy with a mixture of label and past."""
    terms = []
    for row, past, label in labeled_rows(preds_S, past_probs, gt_labels):
        log_S = log_softmax_row(row)
        terms.append(
            -sum(
                ((1 - alpha) * (c == label) + alpha * p) * log_S[c]
                for c, p in enumerate(past)
            )
        )
    return reduced(terms, reduction)


def dlb_reference(preds_S, past_logits, tau=3.0, reduction='batchmean'):
    """Sum the divergences of the first images from their past."""
    rows = zip(preds_S.tolist(), past_logits.tolist(), strict=False)
    terms = [
        tau**2 * divergence([z / tau for z in now], [z / tau for z in past])
        for now, past in rows
    ]
    return reduced(terms, reduction)


def exit_reference(connector, feature, in_channels, out_channels, **k):
    """Go through the bottleneck with loops, pool and classify."""
    last = len(connector.bottleneck) - 1
    for i, conv in enumerate(connector.bottleneck):
        inner = 0 < i < last
        feature = conv_reference(
            SimpleNamespace(conv=conv),
            feature,
            kernel_size=3 if inner else 1,
            stride=2 if inner and k['num_halvings'] else 1,
            norm_cfg=True,
            act_cfg=True,
        )
    pooled = feature.flatten(2).mean(2)
    logits = linear_reference(SimpleNamespace(linear=connector.fc), pooled)
    return pooled, logits


# Losses that a teacher has no part in, or a past that is probabilities.
_ALONE = {
    key: {k: v for k, v in made.items() if k != 'preds_T'}
    for key, made in LABELED.items()
}
_PAST = {
    key: dict(made, past_probs=LABELED[key]['preds_T'].softmax(1))
    for key, made in _ALONE.items()
}


def alone(*shape: int) -> Callable:
    """Make student logits with labels."""

    def inputs(batch):
        made = labeled(pair(*shape))(batch)
        del made['preds_T']
        return made

    return inputs


def with_past(inputs: Callable) -> Callable:
    """Make the teacher's logits the student's own past probabilities."""

    def inputs_with_past(batch):
        made = inputs(batch)
        past = made.pop('preds_T').softmax(1)
        return dict(made, past_probs=past)

    return inputs_with_past


# Where only some of the images have been seen before.
_AGAIN = {
    key: dict(preds_S=made['preds_S'], past_logits=made['preds_T'])
    for key, made in EXTREMES.items()
}
_AGAIN['one_again'] = dict(preds_S=BIG, past_logits=-BIG[:1])


def seen_again(*shape: int) -> Callable:
    """Make logits of which all but one have a past; of one, it has none."""

    def inputs(batch):
        made = pair(*shape)(batch)
        past = made.pop('preds_T')[: max(batch - 1, 0)]
        return dict(made, past_logits=past)

    return inputs


LOSSES = dict(
    CSKDLoss=LossContract(
        # Where x' has a pass of its own; pairs in one batch, whose second
        # rows take no gradient, are in the loss's own tests.
        cases=dict(
            default=Case({}, pair(5)),
            sum=Case(dict(tau=2.0, reduction='sum'), pair(5)),
            none=Case(dict(reduction='none'), pair(5)),
        ),
        reference=lambda preds_S, preds_T, tau=4.0, reduction='batchmean': (
            kl_reference(preds_S, preds_T, tau, reduction)
        ),
        extremes=EXTREMES,
        rejected=[*BAD_TAU, BAD_REDUCTION],
        rejected_inputs=[
            ({}, WIDTHS, SHAPES),
            ({}, TUPLE, NO_TENSOR),
            ({}, SAME_MAPS, r'shape \(N, C\), but got \(2, 3, 2, 2\)'),
            ({}, dict(preds_S=THIRDS), 'are needed, but got None'),
            (
                {},
                dict(preds_S=BIG, gt_labels=torch.tensor([1, 1, 1])),
                'even size, but got 3 images: set an even batch_size',
            ),
            (
                {},
                dict(
                    preds_S=torch.zeros(4, 3),
                    gt_labels=torch.tensor([1, 1, 0, 2]),
                ),
                'but got 0 and 2 in the first of 1 wrong pairs of 2: use Same',
            ),
            *wrong_labels(dict(preds_S=THIRDS)),
        ],
    ),
    DLBLoss=LossContract(
        cases=dict(
            default=Case({}, seen_again(5)),
            sum=Case(dict(tau=2.0, reduction='sum'), seen_again(5)),
            none=Case(dict(reduction='none'), seen_again(5)),
        ),
        reference=dlb_reference,
        teacher=('past_logits',),
        extremes=_AGAIN,
        rejected=[*BAD_TAU, BAD_REDUCTION],
        rejected_inputs=[
            (
                {},
                dict(preds_S=THIRDS, past_logits=THIRDS[:, :2]),
                r'P <= N, for logits \(N, C\) of \(2, 3\), but got \(2, 2\)',
            ),
            (
                {},
                dict(preds_S=THIRDS, past_logits=BIG),
                r'P <= N, for logits \(N, C\) of \(2, 3\), but got \(3, 3\)',
            ),
            (
                {},
                dict(preds_S=THIRDS, past_logits=None),
                'past_logits must be a tensor, but got a NoneType',
            ),
            (
                {},
                dict(preds_S=(THIRDS,), past_logits=THIRDS),
                NO_TENSOR,
            ),
            (
                {},
                dict(preds_S=THIRDS, past_logits=THIRDS[0]),
                r'shape \(N, C\), but got \(3,\)',
            ),
        ],
    ),
    PSKDLoss=LossContract(
        cases=dict(
            default=Case({}, with_past(labeled(pair(5)))),
            early=Case(dict(alpha=0.1), with_past(labeled(pair(5)))),
            past=Case(dict(alpha=1), with_past(labeled(pair(5)))),
            sum=Case(dict(reduction='sum'), with_past(labeled(pair(5)))),
            none=Case(dict(reduction='none'), with_past(labeled(pair(5)))),
        ),
        reference=pskd_reference,
        teacher=('past_probs',),
        extremes=_PAST,
        rejected=[
            BAD_REDUCTION,
            (dict(alpha=-0.1), r'alpha must be .*>= 0.* but got -0\.1'),
            (dict(alpha=1.5), r'alpha must be .*<= 1, but got 1\.5'),
            (
                dict(alpha=dict(type='LinearRam', end=3)),
                "alpha: there is no 'LinearRam' .*; nearest: .*LinearRamp",
            ),
            (
                dict(alpha=dict(type='LinearRamp', end=0)),
                'alpha: end must be greater than begin=0, but got 0',
            ),
        ],
        rejected_inputs=[
            (
                {},
                dict(
                    preds_S=THIRDS,
                    past_probs=THIRDS[:, :2],
                    gt_labels=LABELS_OF_TWO,
                ),
                r'of the logits, \(2, 3\), but got \(2, 2\)',
            ),
            (
                {},
                dict(
                    preds_S=THIRDS,
                    past_probs=torch.eye(3)[:2] - 0.25,
                    gt_labels=LABELS_OF_TWO,
                ),
                r'sum to 1, but got values from -0\.25 to 0\.75 and sums from'
                r' 0\.25 to 0\.25',
            ),
            (
                {},
                dict(
                    preds_S=THIRDS,
                    past_probs=[THIRDS],
                    gt_labels=LABELS_OF_TWO,
                ),
                'past_probs must be a tensor, but got a list',
            ),
            *wrong_labels(dict(preds_S=THIRDS, past_probs=THIRDS)),
        ],
    ),
    TFKDLoss=LossContract(
        cases=dict(
            default=Case({}, alone(5)),
            warm=Case(dict(tau=4.0, alpha=0.9, multiplier=3.0), alone(5)),
            cold=Case(dict(tau=1.0, correct_prob=0.9), alone(5)),
            official=Case(
                dict(official_compat=True, multiplier=100.0), alone(5)
            ),
            sum=Case(dict(reduction='sum'), alone(5)),
            none=Case(dict(reduction='none'), alone(5)),
            two_classes=Case({}, alone(2)),
        ),
        reference=tfkd_reference,
        teacher=(),
        extremes=_ALONE,
        rejected=[
            *BAD_TAU,
            BAD_REDUCTION,
            (dict(alpha=1.1), r'alpha must be .*<= 1, but got 1\.1'),
            (dict(correct_prob=1.0), r'correct_prob .*< 1.* got 1\.0'),
            (dict(correct_prob=0), r'correct_prob .*> 0.* got 0'),
            (dict(multiplier=-1), 'multiplier must be .*>= 0, but got -1'),
            (dict(official_compat=1), 'official_compat must .* got 1'),
        ],
        rejected_inputs=[
            (
                {},
                dict(preds_S=(THIRDS,), gt_labels=LABELS_OF_TWO),
                NO_TENSOR,
            ),
            (
                {},
                dict(preds_S=torch.zeros(2, 1), gt_labels=LABELS_OF_TWO),
                'at least 2 classes are needed, but got 1',
            ),
            (
                {},
                dict(preds_S=torch.zeros(2, 3, 2, 2), gt_labels=LABELS_OF_TWO),
                r'shape \(N, C\), but got \(2, 3, 2, 2\)',
            ),
            *wrong_labels(dict(preds_S=THIRDS)),
        ],
    ),
)


_EXIT = dict(in_channels=3, out_channels=8, num_classes=3, num_halvings=1)


CONNECTORS = dict(
    BYOTConnector=ConnectorContract(
        cases=dict(
            default=Case(
                _EXIT, lambda batch: dict(feature=noise(batch, 3, 4, 3))
            ),
            twice=Case(
                dict(_EXIT, num_halvings=2),
                lambda batch: dict(feature=noise(batch, 3, 5, 6)),
            ),
            deepest=Case(
                dict(_EXIT, num_halvings=0),
                lambda batch: dict(feature=noise(batch, 3, 2, 3)),
            ),
        ),
        reference=exit_reference,
        rejected=[
            (dict(_EXIT, in_channels=0), 'in_channels must .* got 0'),
            (dict(_EXIT, out_channels=3), 'out_channels must .*>= 4.* got 3'),
            (dict(_EXIT, num_classes=0), 'num_classes must .* got 0'),
            (dict(_EXIT, num_halvings=-1), 'num_halvings must .* got -1'),
            (dict(_EXIT, num_halvings=1.5), r'num_halvings must .* got 1\.5'),
        ],
        learnable=True,
    ),
)
