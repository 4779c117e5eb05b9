"""What every loss and every connector is put through, and by what.

``test_contract.py`` runs each case here through the contract. A registered
loss or connector without an entry fails there, so a new one is added here:
options, inputs, and a reference in plain loops, written from the formula and
not from the code.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Optional

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

import mmkd_plugin.models.connectors
import mmkd_plugin.models.losses


def registered(package) -> dict[str, type]:
    """Get the registered modules that the files of a package define."""
    found = {}
    for info in pkgutil.walk_packages(
        package.__path__, package.__name__ + '.'
    ):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and issubclass(value, nn.Module)
                and value.__module__ == module.__name__
                and value in MODELS.module_dict.values()
            ):
                found[name] = value
    return found


REGISTERED_LOSSES = registered(mmkd_plugin.models.losses)
REGISTERED_CONNECTORS = registered(mmkd_plugin.models.connectors)


@dataclass(frozen=True)
class Case:
    """Options and inputs.

    ``inputs`` makes the float64 (and integer) tensors from a batch size.
    """

    options: dict
    inputs: Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class LossContract:
    """How one loss is tested.

    ``reference`` gets the inputs and the options but ``loss_weight``.
    ``extremes`` are inputs at which value and gradient must be finite, with
    the options of every case. ``rejected`` are options, and
    ``rejected_inputs`` options and inputs, with the message they raise.
    """

    cases: dict[str, Case]
    reference: Callable
    extremes: dict[str, dict[str, Tensor]]
    rejected: list[tuple[dict, str]]
    rejected_inputs: list[tuple[dict, dict, str]] = field(default_factory=list)
    student: tuple[str, ...] = ('preds_S',)
    teacher: tuple[str, ...] = ('preds_T',)
    # Inputs and options to the value of the pure function, where that does
    # not take the options of the class as they are.
    function: Optional[Callable] = None


@dataclass(frozen=True)
class ConnectorContract:
    """How one connector is tested.

    The first of the inputs is the record, which a distiller passes by
    position. ``reference`` gets the connector, the inputs and the options.
    """

    cases: dict[str, Case]
    reference: Callable
    rejected: list[tuple[dict, str]]
    rejected_inputs: list[tuple[dict, dict, str]] = field(default_factory=list)
    learnable: bool = False


def noise(*shape: int, key: int = 0) -> Tensor:
    """Make standard normal numbers that depend on shape and key alone."""
    generator = torch.Generator().manual_seed(1000 * key + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pair(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    """Make student and teacher tensors of one shape, batch size apart."""

    def inputs(batch):
        return dict(
            preds_S=noise(batch, *shape, key=1),
            preds_T=2 * noise(batch, *shape, key=2),
        )

    return inputs


def lowest(row: list[float], count: int) -> set[int]:
    """Get the places of the lowest values."""
    return set(sorted(range(len(row)), key=row.__getitem__)[:count])


def masked(inputs: Callable, *names: str) -> Callable:
    """Set the two lowest teacher classes of a sample to -inf, by names."""

    def masked_inputs(batch):
        made = inputs(batch)
        dropped = made['preds_T'].topk(2, dim=1, largest=False).indices
        for name in names:
            made[name] = made[name].scatter(1, dropped, -math.inf)
        return made

    return masked_inputs


# ------------------------------------------------------------- references


def log_softmax_row(row: list[float]) -> list[float]:
    """Compute the log-probabilities of a list of logits."""
    top = max(row)
    total = math.log(sum(math.exp(z - top) for z in row))
    return [z - top - total for z in row]


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


def _rest(row: list[float], label: int) -> list[float]:
    return [z for k, z in enumerate(row) if k != label]


def _divergence(row_S: list[float], row_T: list[float]) -> float:
    """Sum p_T (log p_T - log p_S) over the entries that p_T has."""
    return sum(
        math.exp(t) * (t - s)
        for s, t in zip(
            log_softmax_row(row_S), log_softmax_row(row_T), strict=True
        )
        if t != -math.inf
    )


def _target_divergence(row_S, row_T, label: int) -> float:
    """Do the same for two classes, the target and all others together."""
    rows = []
    for row in (row_S, row_T):
        rest = _rest(row, label)
        top = max(rest)
        total = top + math.log(sum(math.exp(z - top) for z in rest))
        rows.append([row[label], total])
    return _divergence(*rows)


def _reduced(terms: list, reduction: str):
    if reduction == 'none':
        return torch.tensor(terms, dtype=torch.float64)
    divisor = max(len(terms), 1) if reduction == 'batchmean' else 1
    return sum(terms) / divisor


def _rows(preds_S, preds_T, gt_labels):
    return zip(
        preds_S.tolist(), preds_T.tolist(), gt_labels.tolist(), strict=True
    )


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
    for row_S, row_T, label in _rows(preds_S, preds_T, gt_labels):
        row_S, row_T = ([z / tau for z in row] for row in (row_S, row_T))
        target = _target_divergence(row_S, row_T, label)
        others = _divergence(_rest(row_S, label), _rest(row_T, label))
        terms.append(tau**2 * (alpha * target + beta * others))
    return _reduced(terms, reduction)


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
    for row_S, row_T, label in _rows(preds_S, preds_T, gt_labels):
        log_S, log_T = log_softmax_row(row_S), log_softmax_row(row_T)
        target = 0.0
        if log_T[label] != -math.inf:
            target = -math.exp(log_T[label]) * log_S[label]
        soft = [[z / tau for z in row] for row in (row_S, row_T)]
        if mask_target:
            soft = [_rest(row, label) for row in soft]
        others = sum(
            math.exp(t) * s
            for s, t in zip(*map(log_softmax_row, soft), strict=True)
            if t != -math.inf
        )
        terms.append(target - gamma * tau**2 * others)
    return _reduced(terms, reduction)


def _pooled(grid: list[list[float]], cells: int) -> list[list[float]]:
    """Average a grid of numbers over cells that may overlap."""

    def parts(size):
        return [
            range(i * size // cells, -(-(i + 1) * size // cells))
            for i in range(cells)
        ]

    return [
        [
            sum(grid[y][x] for y in rows for x in columns)
            / (len(rows) * len(columns))
            for columns in parts(len(grid[0]))
        ]
        for rows in parts(len(grid))
    ]


def _region_rows(image, scales, nested_pool) -> list[list[float]]:
    """Get the logits of all regions of one image, ``(K, H, W)``."""
    regions = []
    for scale in scales:
        planes = image.tolist()
        if nested_pool:
            planes = [_pooled(p, max(4, *scales)) for p in planes]
        planes = [_pooled(p, scale) for p in planes]
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


def standardised_row(row: list[float], eps: float = 1e-7) -> list[float]:
    """Subtract the mean and divide by the unbiased deviation."""
    mean = sum(row) / len(row)
    square = sum((z - mean) ** 2 for z in row)
    return [
        (z - mean) / (math.sqrt(square / (len(row) - 1)) + eps) for z in row
    ]


def standardization_reference(connector, logits, eps=1e-7):
    """Standardise the logits of every sample and place."""
    columns = logits.movedim(1, -1)
    rows = [
        standardised_row(row, eps)
        for row in columns.reshape(-1, columns.shape[-1]).tolist()
    ]
    made = torch.tensor(rows, dtype=torch.float64).view(columns.shape)
    return made.movedim(-1, 1)


def drop_reference(
    connector,
    logits,
    reference=None,
    drop_ratio=None,
    num_dropped=None,
    min_prob=None,
):
    """Put -inf at the classes that the reference believes in least."""
    reference = logits if reference is None else reference
    out = logits.clone()
    for i, row in enumerate(reference.tolist()):
        if min_prob is not None:
            dropped = {
                c
                for c, log_p in enumerate(log_softmax_row(row))
                if math.exp(log_p) < min_prob and row[c] != max(row)
            }
        elif num_dropped is not None:
            dropped = lowest(row, num_dropped)
        else:
            share = 0.5 if drop_ratio is None else drop_ratio
            dropped = lowest(row, math.floor(share * len(row)))
        for c in dropped:
            out[i, c] = -math.inf
    return out


def conv_reference(connector, feature, kernel_size=1, stride=1, **options):
    """Convolve with loops, then normalise over the batch and rectify."""
    conv = connector.conv.conv
    weight, pad = conv.weight.tolist(), kernel_size // 2
    batch, channels, height, width = feature.shape
    size = [(n - 1) // stride + 1 for n in (height, width)]
    out = torch.zeros(batch, len(weight), *size, dtype=torch.float64)
    for i, o, y, x in product(*map(range, out.shape)):
        total = 0.0 if conv.bias is None else conv.bias[o].item()
        for c, ky, kx in product(
            range(channels), range(kernel_size), range(kernel_size)
        ):
            row, column = stride * y + ky - pad, stride * x + kx - pad
            if 0 <= row < height and 0 <= column < width:
                total += weight[o][c][ky][kx] * feature[i, c, row, column]
        out[i, o, y, x] = total
    if options.get('norm_cfg'):
        for o in range(len(weight)):
            values = out[:, o].flatten().tolist()
            mean = sum(values) / len(values)
            var = sum((v - mean) ** 2 for v in values) / len(values)
            out[:, o] = (out[:, o] - mean) / math.sqrt(var + 1e-5)
    if options.get('act_cfg'):
        for place in product(*map(range, out.shape)):
            out[place] = max(out[place].item(), 0.0)
    return out


def linear_reference(connector, feature, bias=True):
    """Multiply every vector with the weight, row by row."""
    weight = connector.linear.weight.tolist()
    rows = [
        [
            sum(w * v for w, v in zip(line, vector, strict=True))
            for line in weight
        ]
        for vector in feature.reshape(-1, feature.shape[-1]).tolist()
    ]
    out = torch.tensor(rows, dtype=torch.float64)
    out = out.view(*feature.shape[:-1], len(weight))
    return out + connector.linear.bias.detach() if bias else out


# ---------------------------------------------------------------- entries

# Both signs, the teacher sure of what the student is sure against, and
# rows that do not differ at all.
_BIG = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 1e4]])
_MARGIN = 500 * torch.eye(3)
_ROW = torch.tensor([[1.0, 2.0, -1.0]])
EXTREMES = dict(
    big=dict(preds_S=_BIG, preds_T=-_BIG),
    big_and_equal=dict(preds_S=_BIG, preds_T=_BIG),
    sure_against=dict(preds_S=_MARGIN, preds_T=_MARGIN.flip(1)),
    sure_against_flat=dict(preds_S=_MARGIN, preds_T=torch.zeros(3, 3)),
    flat=dict(preds_S=torch.zeros(3, 3), preds_T=_MARGIN),
    equal_samples=dict(preds_S=_ROW.repeat(3, 1), preds_T=_BIG),
    equal_teacher_samples=dict(preds_S=_BIG, preds_T=_ROW.repeat(3, 1)),
    all_equal=dict(preds_S=_ROW.repeat(3, 1), preds_T=_ROW.repeat(3, 1)),
    duplicate=dict(preds_S=_BIG[[0, 0, 1]], preds_T=_BIG[[0, 1, 1]]),
    almost_equal=dict(
        preds_S=_ROW + 1e-4 * torch.eye(3), preds_T=_ROW - 1e-4 * torch.eye(3)
    ),
    one_sample=dict(preds_S=_BIG[:1], preds_T=-_BIG[:1]),
)

_SHAPES = r'same shape, but got \(2, 3\) and \(2, 4\)'
_WIDTHS = dict(preds_S=torch.zeros(2, 3), preds_T=torch.zeros(2, 4))
_TUPLE = dict(preds_S=(torch.zeros(2, 3),), preds_T=torch.zeros(2, 3))
_NO_TENSOR = 'preds_S must be a tensor, but got a tuple.* data_idx'
_BAD_TAU = [
    (dict(tau=0), r'tau must be .* > 0, but got 0'),
    (dict(tau=-2.0), r'tau must be .* > 0, but got -2\.0'),
    (dict(tau='hot'), r"tau must be .* got 'hot'"),
    (dict(tau=math.nan), r'tau must be a finite number.* got nan'),
]

_LABELED = {
    key: dict(made, gt_labels=torch.arange(len(made['preds_S'])) % 3)
    for key, made in EXTREMES.items()
}
# Maps of one place repeated, and of places that contradict each other.
_MAPS = {
    **{
        key: {
            name: value[..., None, None].expand(-1, -1, 2, 2).contiguous()
            if value.is_floating_point()
            else value
            for name, value in made.items()
        }
        for key, made in _LABELED.items()
    },
    'places': dict(
        preds_S=_BIG.t()[None, :, :, None].repeat(2, 1, 1, 1),
        preds_T=-_BIG.t()[None, :, None].repeat(2, 1, 1, 1),
        gt_labels=torch.tensor([0, 2]),
    ),
}


def labeled(inputs: Callable) -> Callable:
    """Add labels to inputs of logits or logit maps."""

    def labeled_inputs(batch):
        made = inputs(batch)
        classes = made['preds_S'].shape[1]
        return dict(made, gt_labels=torch.arange(batch) * 2 % classes)

    return labeled_inputs


def maps(size_S, size_T, classes: int = 4) -> Callable:
    """Make logit maps of different sizes."""

    def inputs(batch):
        return dict(
            preds_S=noise(batch, classes, *size_S, key=1),
            preds_T=2 * noise(batch, classes, *size_T, key=2),
        )

    return inputs


def _wrong_labels(preds: dict) -> list[tuple[dict, dict, str]]:
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


_TWO = dict(preds_S=torch.zeros(2, 3), preds_T=torch.zeros(2, 3))
_TWO_MAPS = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(2, 3, 4, 4)
)
_SAME_MAPS = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(2, 3, 2, 2)
)
_ONE_CLASS = dict(
    preds_S=torch.zeros(2, 1),
    preds_T=torch.zeros(2, 1),
    gt_labels=torch.tensor([0, 0]),
)
_BAD_REDUCTION = (
    dict(reduction='mean'),
    r"reduction must be one of \('batchmean', 'sum', 'none'\), .* got 'mean'",
)
_SDD_DKD = dict(type='DKDLoss', beta=2.0, tau=2.0)
_BAD_SCALES = r'scales must be increasing positive integers.* got '

LOSSES = dict(
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
        extremes=_LABELED,
        rejected=[
            *_BAD_TAU,
            _BAD_REDUCTION,
            (dict(alpha=-1.0), r'alpha must be .*>= 0, but got -1\.0'),
            (dict(beta=math.inf), r'beta must be .* got inf'),
        ],
        rejected_inputs=[
            ({}, dict(_WIDTHS, gt_labels=torch.tensor([0, 1])), _SHAPES),
            ({}, dict(_TUPLE, gt_labels=torch.tensor([0, 1])), _NO_TENSOR),
            ({}, dict(_TWO, gt_labels=None), 'are needed, but got None'),
            ({}, _ONE_CLASS, 'at least 2 classes are needed, but got 1'),
            (
                {},
                dict(_SAME_MAPS, gt_labels=torch.tensor([0, 1])),
                r'shape \(N, C\), but got \(2, 3, 2, 2\); .* SDDLoss',
            ),
            *_wrong_labels(_TWO),
        ],
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
        extremes=_LABELED,
        rejected=[
            *_BAD_TAU,
            _BAD_REDUCTION,
            (dict(gamma=-1), r'gamma must be .*>= 0, but got -1'),
            (dict(mask_target=1), 'mask_target must be True or .* got 1'),
        ],
        rejected_inputs=[
            ({}, dict(_WIDTHS, gt_labels=torch.tensor([0, 1])), _SHAPES),
            ({}, dict(_TUPLE, gt_labels=torch.tensor([0, 1])), _NO_TENSOR),
            ({}, dict(_TWO, gt_labels=None), 'are needed, but got None'),
            ({}, _ONE_CLASS, 'at least 2 classes are needed, but got 1'),
            (
                {},
                dict(_SAME_MAPS, gt_labels=torch.tensor([0, 1])),
                r'shape \(N, C\), but got \(2, 3, 2, 2\); .* SDDLoss',
            ),
            *_wrong_labels(_TWO),
        ],
    ),
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
        extremes=_MAPS,
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
                dict(_TWO, gt_labels=torch.tensor([0, 1])),
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
            *_wrong_labels(_TWO_MAPS),
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
            *_BAD_TAU,
            (
                dict(reduction='average'),
                r"reduction must be one of .*'batchmean'.* got 'average'",
            ),
        ],
        rejected_inputs=[({}, _WIDTHS, _SHAPES), ({}, _TUPLE, _NO_TENSOR)],
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
            ({}, _WIDTHS, _SHAPES + '; put a ConvConnector or Linear'),
            ({}, _TUPLE, _NO_TENSOR),
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
            ({}, _WIDTHS, _SHAPES + '; put a ConvConnector or Linear'),
            ({}, _TUPLE, _NO_TENSOR),
        ],
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
            *_BAD_TAU,
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
            ({}, _TUPLE, _NO_TENSOR),
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


def _logits(*names: str) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: {
        name: noise(batch, 6, key=key) for key, name in enumerate(names)
    }


def _feature(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: dict(feature=noise(batch, *shape))


_WIDTH = dict(in_channels=3, out_channels=2)

CONNECTORS = dict(
    ClassDropMask=ConnectorContract(
        cases=dict(
            default=Case({}, _logits('logits')),
            ratio=Case(dict(drop_ratio=0.7), _logits('logits')),
            nothing=Case(dict(drop_ratio=0.0), _logits('logits')),
            number=Case(dict(num_dropped=5), _logits('logits')),
            threshold=Case(dict(min_prob=0.2), _logits('logits')),
            reference=Case(
                dict(num_dropped=2), _logits('logits', 'reference')
            ),
        ),
        reference=drop_reference,
        rejected=[
            (dict(drop_ratio=1.0), r'drop_ratio must be .*< 1.* got 1\.0'),
            (dict(drop_ratio=-0.1), r'drop_ratio must be .* got -0\.1'),
            (dict(num_dropped=-1), r'num_dropped must be .*>= 0.* got -1'),
            (dict(num_dropped=1.5), r'must be an integer, but got 1\.5'),
            (dict(min_prob=0), r'min_prob must be .*> 0.* got 0'),
            (dict(min_prob=1.0), r'min_prob must be .*< 1.* got 1\.0'),
            (
                dict(drop_ratio=0.5, min_prob=0.1),
                r'only one of .*, but got .*0\.5.*0\.1',
            ),
        ],
        rejected_inputs=[
            (
                dict(num_dropped=3),
                dict(logits=torch.zeros(2, 3)),
                'must leave a class, but 3 of 3 would go',
            ),
            (
                {},
                dict(logits=torch.zeros(2, 3), reference=torch.zeros(2, 4)),
                _SHAPES,
            ),
        ],
    ),
    ConvConnector=ConnectorContract(
        cases=dict(
            default=Case(_WIDTH, _feature(3, 2, 4)),
            large=Case(dict(_WIDTH, kernel_size=3), _feature(3, 4, 3)),
            strided=Case(
                dict(_WIDTH, kernel_size=3, stride=2), _feature(3, 5, 4)
            ),
            block=Case(
                dict(
                    _WIDTH,
                    norm_cfg=dict(type='BN'),
                    act_cfg=dict(type='ReLU'),
                ),
                _feature(3, 2, 2),
            ),
        ),
        reference=lambda connector, feature, in_channels, out_channels, **k: (
            conv_reference(connector, feature, **k)
        ),
        rejected=[
            (dict(_WIDTH, in_channels=0), r'in_channels must .* got 0'),
            (dict(_WIDTH, out_channels=-1), r'out_channels must .* got -1'),
            (dict(_WIDTH, kernel_size=2), 'kernel_size must be odd.* got 2'),
            (dict(_WIDTH, kernel_size=0), 'kernel_size must be .* got 0'),
            (dict(_WIDTH, stride=0), 'stride must be .* got 0'),
        ],
        learnable=True,
    ),
    LogitStandardization=ConnectorContract(
        cases=dict(
            default=Case({}, _logits('logits')),
            large_eps=Case(dict(eps=0.5), _logits('logits')),
            maps=Case({}, lambda batch: dict(logits=noise(batch, 5, 2, 3))),
        ),
        reference=standardization_reference,
        rejected=[
            (dict(eps=0), r'eps must be .*> 0, but got 0'),
            (dict(eps='small'), r"eps must be .* got 'small'"),
        ],
        rejected_inputs=[
            ({}, dict(logits=torch.zeros(2, 1)), r'C >= 2, but got \(2, 1\)'),
            ({}, dict(logits=torch.zeros(3)), r'C >= 2, but got \(3,\)'),
            ({}, dict(logits=[1.0]), 'must be a tensor, but got a list'),
        ],
    ),
    LinearConnector=ConnectorContract(
        cases=dict(
            default=Case(_WIDTH, _feature(3)),
            tokens=Case(_WIDTH, _feature(4, 3)),
            unbiased=Case(dict(_WIDTH, bias=False), _feature(3)),
        ),
        reference=lambda connector, feature, in_channels, out_channels, **k: (
            linear_reference(connector, feature, **k)
        ),
        rejected=[
            (dict(_WIDTH, in_channels=0), r'in_channels must .* got 0'),
            (dict(_WIDTH, out_channels=0), r'out_channels must .* got 0'),
        ],
        learnable=True,
    ),
)
