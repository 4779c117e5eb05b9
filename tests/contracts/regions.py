"""Losses of the logits of the regions of an image."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from mmengine.registry import MODELS

import mmkd_plugin.models
from contracts.base import Case, LossContract, labeled, lowest, noise, pooled
from contracts.connectors import standardised_row
from contracts.inputs import MAPS, TWO, wrong_labels
from contracts.response import dkd_reference, kl_reference, nkd_reference


def _region_rows(image, scales, nested_pool) -> list[list[float]]:
    """Get the logits of all regions of one image, ``(K, H, W)``."""
    regions = []
    for scale in scales:
        planes = image.tolist()
        if nested_pool:
            planes = [pooled(p, max(4, *scales)) for p in planes]
        planes = [pooled(p, scale) for p in planes]
        regions += [
            [plane[y][x] for plane in planes]
            for y, x in product(range(scale), range(scale))
        ]
    return regions


BASE_REFERENCES = dict(
    KLDivergence=lambda *args, gt_labels, **k: kl_reference(*args, **k),
    DKDLoss=dkd_reference,
    NKDLoss=nkd_reference,
)


def sdd_reference(
    preds_S,
    preds_T,
    gt_labels=None,
    base_loss=None,
    scales=(1, 2, 4),
    weight_rule='label',
    consistent_weight=1.0,
    complementary_weight=2.0,
    reduction='mean',
    nested_pool=True,
    teacher_connector=None,
    student_connector=None,
):
    """Add up the regions of all images, one by one."""
    base = dict(base_loss or dict(type='KLDivergence', tau=4.0))
    loss = BASE_REFERENCES[base.pop('type')]
    total, count = 0.0, 0
    for i in range(len(preds_S)):
        label = None if gt_labels is None else gt_labels[i].item()
        with_whole = (1, *scales) if scales[0] != 1 else scales
        rows_T = _region_rows(preds_T[i], with_whole, nested_pool)
        answers = [row.index(max(row)) for row in rows_T]
        rows_T = rows_T[len(with_whole) - len(scales) :]
        local = answers[len(with_whole) - len(scales) :]
        rows_S = _region_rows(preds_S[i], scales, nested_pool)
        count = len(rows_S)
        for row_S, row_T, answer in zip(rows_S, rows_T, local, strict=True):
            if weight_rule == 'label':
                differs = (answer == label) != (answers[0] == label)
            else:
                differs = answer != answers[0]
            if teacher_connector:
                for c in lowest(row_T, teacher_connector['num_dropped']):
                    row_T[c] = -math.inf
            if student_connector:
                row_S = standardised_row(row_S)
            term = loss(
                torch.tensor([row_S], dtype=torch.float64),
                torch.tensor([row_T], dtype=torch.float64),
                gt_labels=torch.tensor([label or 0]),
                **base,
            )
            weight = complementary_weight if differs else consistent_weight
            total += weight * float(term)
    divisor = max(len(preds_S), 1)
    if reduction == 'mean':
        divisor *= max(count, 1)
    return total / divisor


def sdd_function(base_loss=None, **arguments):
    """Call ``sdd_loss`` with what the class makes of its options."""
    base = dict(base_loss or dict(type='KLDivergence', tau=4.0))
    functions = dict(
        KLDivergence=mmkd_plugin.models.kl_divergence,
        DKDLoss=mmkd_plugin.models.dkd_loss,
        NKDLoss=mmkd_plugin.models.nkd_loss,
    )
    function = functions[base.pop('type')]
    for side in ('teacher_connector', 'student_connector'):
        if arguments.get(side):
            arguments[side] = MODELS.build(arguments[side])
    return mmkd_plugin.models.sdd_loss(
        base_loss=partial(function, **base, reduction='none'), **arguments
    ).sum()


def maps(size_S, size_T, classes: int = 4) -> Callable:
    """Make logit maps of different sizes."""

    def inputs(batch):
        return dict(
            preds_S=noise(batch, classes, *size_S, key=1),
            preds_T=2 * noise(batch, classes, *size_T, key=2),
        )

    return inputs


_TWO_MAPS = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(2, 3, 4, 4)
)
_SDD_DKD = dict(type='DKDLoss', beta=2.0, tau=2.0)
_BAD_SCALES = r'scales must be increasing positive integers.* got '


LOSSES = dict(
    SDDLoss=LossContract(
        cases=dict(
            default=Case({}, labeled(maps((4, 4), (8, 8)))),
            odd=Case({}, labeled(maps((7, 7), (5, 9)))),
            plain=Case(dict(nested_pool=False), labeled(maps((7, 7), (5, 9)))),
            small=Case(dict(scales=(1, 2)), labeled(maps((2, 2), (1, 3)))),
            without_whole=Case(
                dict(scales=(2, 3)), labeled(maps((6, 6), (6, 6)))
            ),
            fine=Case(dict(scales=[5]), labeled(maps((5, 5), (6, 6)))),
            paper=Case(
                dict(
                    weight_rule='teacher_global',
                    reduction='sum',
                    nested_pool=False,
                ),
                maps((7, 7), (4, 4)),
            ),
            weights=Case(
                dict(consistent_weight=0.5, complementary_weight=3.0),
                labeled(maps((4, 4), (4, 4))),
            ),
            complementary=Case(
                dict(consistent_weight=0, scales=(1, 2)),
                labeled(maps((4, 4), (4, 4))),
            ),
            dkd=Case(
                dict(base_loss=_SDD_DKD, scales=(1, 2)),
                labeled(maps((4, 4), (4, 4))),
            ),
            dkd_teacher=Case(
                dict(base_loss=_SDD_DKD, weight_rule='teacher_global'),
                labeled(maps((4, 4), (4, 4))),
            ),
            nkd=Case(
                dict(
                    base_loss=dict(
                        type='NKDLoss', gamma=8.0, tau=4.0, mask_target=False
                    ),
                    scales=(1, 2),
                ),
                labeled(maps((4, 4), (4, 4))),
            ),
            connectors=Case(
                dict(
                    weight_rule='teacher_global',
                    teacher_connector=dict(
                        type='ClassDropMask', num_dropped=2
                    ),
                    student_connector=dict(type='LogitStandardization'),
                ),
                maps((4, 4), (4, 4)),
            ),
        ),
        reference=sdd_reference,
        function=sdd_function,
        extremes=MAPS,
        rejected=[
            *(
                (dict(scales=bad), _BAD_SCALES + shown)
                for bad, shown in (
                    ((), r'\(\)'),
                    ((1, 2.5), r'\(1, 2\.5\)'),
                    ((True, 2), r'\(True, 2\)'),
                    ((0, 1), r'\(0, 1\)'),
                    ((4, 2, 1), r'\(4, 2, 1\)'),
                    ((1, 2, 2), r'\(1, 2, 2\)'),
                    ('[1,2,4]', r"'\[1,2,4\]'"),
                    (4, '4'),
                )
            ),
            (dict(weight_rule='paper'), r"weight_rule must .* got 'paper'"),
            (dict(reduction='none'), r"reduction must be .* got 'none'"),
            (dict(nested_pool=None), 'nested_pool must .* got None'),
            (dict(consistent_weight=-1), 'consistent_weight .* got -1'),
            (dict(complementary_weight=-1), 'complementary_w.* got -1'),
            (dict(base_loss='DKDLoss'), "base_loss must be .* got 'DKDLoss'"),
            (
                dict(base_loss=dict(type='DKDLoss', temperature=4.0)),
                "base_loss: DKDLoss has no option 'temperature'; .*tau$",
            ),
            (
                dict(base_loss=dict(type='DKDLos')),
                "base_loss: there is no 'DKDLos' .*; nearest: .*DKDLoss",
            ),
            (
                dict(base_loss=dict(type='SDDLoss')),
                "got 'none'; SDDLoss needs a loss with reduction='none'",
            ),
            (
                dict(base_loss=dict(type='mmpretrain.CrossEntropyLoss')),
                'a loss of preds_S, preds_T .* got CrossEntropyLoss',
            ),
            (
                dict(teacher_connector={}),
                'teacher_connector must be a config .* got {}',
            ),
            (
                dict(
                    teacher_connector=dict(
                        type='LinearConnector', in_channels=3, out_channels=3
                    )
                ),
                'teacher_connector must have nothing to learn.* got .*Linear',
            ),
            (
                dict(base_loss=dict(type='DKDLoss', reduction='sum')),
                'leave its reduction to SDDLoss, but got .*sum',
            ),
            (
                dict(base_loss=dict(type='StructuredRelationLoss')),
                "StructuredRelationLoss has no option 'reduction'; .* needs a "
                "loss with reduction='none'",
            ),
        ],
        rejected_inputs=[
            (
                {},
                dict(TWO, gt_labels=torch.tensor([0, 1])),
                r'of shape \(B, K, H, W\), .* got .* shape \(2, 3\)',
            ),
            (
                {},
                dict(
                    preds_S=torch.zeros(2, 3, 2, 2),
                    preds_T=torch.zeros(2, 4, 2, 2),
                    gt_labels=torch.tensor([0, 1]),
                ),
                r'of classes, but got \(2, 3\) and \(2, 4\)',
            ),
            ({}, _TWO_MAPS, 'are needed, but got None'),
            (
                dict(base_loss=_SDD_DKD, weight_rule='teacher_global'),
                _TWO_MAPS,
                'are needed, but got None',
            ),
            (
                dict(base_loss=dict(type='L1Loss')),
                dict(_TWO_MAPS, gt_labels=torch.tensor([0, 1])),
                r'one value a region and image, .* but got \(42, 3\)',
            ),
            *wrong_labels(_TWO_MAPS),
        ],
    ),
)
