"""Inputs that several contracts share: extreme ones, and ones to refuse."""

import math

import torch

# Both signs, the teacher sure of what the student is sure against, and
# rows that do not differ at all.
BIG = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 1e4]])
_MARGIN = 500 * torch.eye(3)
_ROW = torch.tensor([[1.0, 2.0, -1.0]])
EXTREMES = dict(
    big=dict(preds_S=BIG, preds_T=-BIG),
    big_and_equal=dict(preds_S=BIG, preds_T=BIG),
    sure_against=dict(preds_S=_MARGIN, preds_T=_MARGIN.flip(1)),
    sure_against_flat=dict(preds_S=_MARGIN, preds_T=torch.zeros(3, 3)),
    flat=dict(preds_S=torch.zeros(3, 3), preds_T=_MARGIN),
    equal_samples=dict(preds_S=_ROW.repeat(3, 1), preds_T=BIG),
    equal_teacher_samples=dict(preds_S=BIG, preds_T=_ROW.repeat(3, 1)),
    all_equal=dict(preds_S=_ROW.repeat(3, 1), preds_T=_ROW.repeat(3, 1)),
    duplicate=dict(preds_S=BIG[[0, 0, 1]], preds_T=BIG[[0, 1, 1]]),
    almost_equal=dict(
        preds_S=_ROW + 1e-4 * torch.eye(3), preds_T=_ROW - 1e-4 * torch.eye(3)
    ),
    one_sample=dict(preds_S=BIG[:1], preds_T=-BIG[:1]),
)
LABELED = {
    key: dict(made, gt_labels=torch.arange(len(made['preds_S'])) % 3)
    for key, made in EXTREMES.items()
}
# Maps of one place repeated, and of places that contradict each other.
MAPS = {
    **{
        key: {
            name: value[..., None, None].expand(-1, -1, 2, 2).contiguous()
            if value.is_floating_point()
            else value
            for name, value in made.items()
        }
        for key, made in LABELED.items()
    },
    'places': dict(
        preds_S=BIG.t()[None, :, :, None].repeat(2, 1, 1, 1),
        preds_T=-BIG.t()[None, :, None].repeat(2, 1, 1, 1),
        gt_labels=torch.tensor([0, 2]),
    ),
}
PLAIN_MAPS = {
    key: {name: made[name] for name in ('preds_S', 'preds_T')}
    for key, made in MAPS.items()
}
PLAIN_MAPS['places'] = dict(
    preds_S=BIG[None, :, :, None].repeat(2, 1, 1, 1),
    preds_T=-BIG.flip(0)[None, :, :, None].repeat(2, 1, 1, 1),
)
# For what has no classes; and a feature without a length beside others.
ROW_EXTREMES = {
    key: EXTREMES[key]
    for key in (
        'big',
        'flat',
        'equal_samples',
        'equal_teacher_samples',
        'all_equal',
        'duplicate',
        'almost_equal',
    )
}
ROW_EXTREMES['zero_row'] = dict(
    preds_S=BIG * torch.tensor([[1.0], [0.0], [1.0]]), preds_T=BIG
)
SHAPES = r'same shape, but got \(2, 3\) and \(2, 4\)'
WIDTHS = dict(preds_S=torch.zeros(2, 3), preds_T=torch.zeros(2, 4))
TUPLE = dict(preds_S=(torch.zeros(2, 3),), preds_T=torch.zeros(2, 3))
NO_TENSOR = 'preds_S must be a tensor, but got a tuple.* data_idx'
BAD_TAU = [
    (dict(tau=0), r'tau must be .* > 0, but got 0'),
    (dict(tau=-2.0), r'tau must be .* > 0, but got -2\.0'),
    (dict(tau='hot'), r"tau must be .* got 'hot'"),
    (dict(tau=math.nan), r'tau must be a finite number.* got nan'),
]


def wrong_labels(preds: dict) -> list[tuple[dict, dict, str]]:
    """Make what all losses with labels must refuse, for two samples."""
    return [
        (
            {},
            dict(preds, gt_labels=torch.tensor(given)),
            rf'must be in \[0, 3\), .* got {bad}',
        )
        for given, bad in (([0, 3], 3), ([-1, 0], -1))
    ] + [
        (
            {},
            dict(preds, gt_labels=torch.tensor(given)),
            r'integers of shape \(2,\), but got',
        )
        for given in ([0, 1, 2], [[0], [1]], [0.0, 1.0])
    ]


TWO = dict(preds_S=torch.zeros(2, 3), preds_T=torch.zeros(2, 3))
SAME_MAPS = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(2, 3, 2, 2)
)
ONE_CLASS = dict(
    preds_S=torch.zeros(2, 1),
    preds_T=torch.zeros(2, 1),
    gt_labels=torch.tensor([0, 0]),
)
BAD_REDUCTION = (
    dict(reduction='mean'),
    r"reduction must be one of \('batchmean', 'sum', 'none'\), .* got 'mean'",
)
FEATURE_WIDTHS = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(2, 4, 2, 2)
)
FEATURE_SHAPES = r'same shape, but got \(2, 3, 2, 2\) and \(2, 4, 2, 2\); '
BATCHES = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(3, 3, 2, 2)
)
NO_MAPS = r'of shape \(N, C, H, W\), but got \(2, 3\)'
BAD_ROWS = [
    (
        {},
        dict(preds_S=torch.zeros(2, 3), preds_T=torch.zeros(3, 3)),
        'same batch size, but got 2 and 3',
    ),
    (
        {},
        dict(preds_S=torch.zeros(2), preds_T=torch.zeros(2)),
        r'preds_S must have the shape \(N, \*\).* got \(2,\)',
    ),
    ({}, TUPLE, NO_TENSOR),
]
NO_WEIGHT = [
    (dict(loss_weight=math.nan), 'loss_weight must be .* got nan'),
]
THIRDS = torch.full((2, 3), 1 / 3)
LABELS_OF_TWO = torch.tensor([0, 1])
