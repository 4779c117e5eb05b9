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
from types import SimpleNamespace
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


def _pooled(
    grid: list[list[float]], height: int, width: Optional[int] = None
) -> list[list[float]]:
    """Average a grid of numbers over cells that may overlap."""

    def parts(size, cells):
        return [
            range(i * size // cells, -(-(i + 1) * size // cells))
            for i in range(cells)
        ]

    return [
        [
            sum(grid[y][x] for y in rows for x in columns)
            / (len(rows) * len(columns))
            for columns in parts(len(grid[0]), width or height)
        ]
        for rows in parts(len(grid), height)
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


def _huber(gap: float) -> float:
    return gap**2 / 2 if abs(gap) <= 1 else abs(gap) - 0.5


def _unit_row(row: list[float], eps: float = 0.0) -> list[float]:
    length = math.hypot(*row)
    return [v / (length + eps) if length else 0.0 for v in row]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _gram(rows: list[list[float]]) -> list[list[float]]:
    return [[_dot(a, b) for b in rows] for a in rows]


def _squares(rows_S: list[list[float]], rows_T: list[list[float]]) -> float:
    return sum(
        math.dist(a, b) ** 2 for a, b in zip(rows_S, rows_T, strict=True)
    )


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
        _unit_row([a - b for a, b in zip(rows[m], rows[i], strict=True)])
        for m in (j, k)
    ]
    return _dot(*lines)


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
        sides = [list(map(_unit_row, rows)) for rows in sides]
    far_S, far_T = (_rkd_distances(rows, squared) for rows in sides)
    every = range(count)
    pairs = sum(
        _huber(far_S[i][j] - far_T[i][j]) for i, j in product(every, every)
    )
    triplets = sum(
        _huber(_rkd_angle(sides[0], *at) - _rkd_angle(sides[1], *at))
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
        list(map(_unit_row, _gram(preds.flatten(1).tolist())))
        for preds in (preds_S, preds_T)
    ]
    return _squares(*likes) / count**2


def pkt_reference(preds_S, preds_T):
    """Average p_T log(p_T / p_S) of the neighbours of every sample."""
    count = len(preds_S)
    if count < 2:
        return 0.0
    near = []
    for preds in (preds_S, preds_T):
        units = [_unit_row(row, 1e-7) for row in preds.flatten(1).tolist()]
        rows = [[(c + 1) / 2 for c in row] for row in _gram(units)]
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
    units = [list(map(_unit_row, rows)) for rows in raw]
    count, total = len(raw[0]), 0.0
    if form == 'neighbor':
        gaps = [
            [abs(s - t) for s, t in zip(a, b, strict=True)]
            for a, b in zip(*raw, strict=True)
        ]
        for i in range(count - 1):
            total += _dot(gaps[i], gaps[i + 1]) / (count - 1)
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
                for row in _gram(rows)
            ]
            for rows in units
        ]
        total = _squares(*kernels) / count**2
    if instance_weight:
        total += instance_weight * _squares(*units) / max(count, 1)
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
                [_dot(a, b) / math.prod(size) for a in low for b in high]
            )
        terms += [(s - t) ** 2 for s, t in zip(*flows, strict=True)]
    return sum(terms) / max(len(terms), 1)


def _channel_rows(preds_S, preds_T):
    """Yield the channels of both, in one size, of each sample."""
    size = [min(preds_S.shape[d], preds_T.shape[d]) for d in (2, 3)]
    for sample in zip(preds_S.tolist(), preds_T.tolist(), strict=True):
        yield [
            [
                [v for row in _pooled(grid, *size) for v in row]
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
            kernels = [_dot(x, y) ** 2 for x, y in product(a, b)]
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
            for rows in zip(*(_pooled(g, *size) for g in grids), strict=True)
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


def generation_reference(connector, feature, in_channels, out_channels, **k):
    """Convolve with loops what is not masked."""

    def convolved(layer, feature, kernel_size=3):
        block = SimpleNamespace(conv=SimpleNamespace(conv=layer))
        return conv_reference(block, feature, kernel_size)

    if in_channels != out_channels:
        feature = convolved(connector.align, feature, 1)
    first, _, second = connector.generation
    return convolved(second, convolved(first, feature).clamp(min=0))


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
            soft = _divergence(row, [p / tau for p in made_up]) / len(row)
        else:
            soft = _divergence(
                [z / tau for z in row], [math.log(p) / tau for p in made_up]
            )
        hard = -log_softmax_row(row)[label]
        terms.append((1 - alpha) * hard + alpha * multiplier * soft)
    return _reduced(terms, reduction)


def pskd_reference(
    preds_S, past_probs, gt_labels, alpha=0.8, reduction='batchmean'
):
    """Sum the cross entropy with a mixture of label and past."""
    terms = []
    for row, past, label in _rows(preds_S, past_probs, gt_labels):
        log_S = log_softmax_row(row)
        terms.append(
            -sum(
                ((1 - alpha) * (c == label) + alpha * p) * log_S[c]
                for c, p in enumerate(past)
            )
        )
    return _reduced(terms, reduction)


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


def widths(shape_S: tuple, shape_T: tuple) -> Callable:
    """Make student and teacher tensors of two shapes, batch size apart."""

    def inputs(batch):
        return dict(
            preds_S=noise(batch, *shape_S, key=1),
            preds_T=2 * noise(batch, *shape_T, key=2),
        )

    return inputs


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


_BAD_ROWS = [
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
    ({}, _TUPLE, _NO_TENSOR),
]
_NO_WEIGHT = [
    (dict(loss_weight=math.nan), 'loss_weight must be .* got nan'),
]
# For what has no classes; and a feature without a length beside others.
_ROW_EXTREMES = {
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
_ROW_EXTREMES['zero_row'] = dict(
    preds_S=_BIG * torch.tensor([[1.0], [0.0], [1.0]]), preds_T=_BIG
)
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
    for key, made in _ROW_EXTREMES.items()
    if key in ('big', 'flat', 'all_equal')
}


def stages(shape_S: tuple, shape_T: tuple) -> Callable:
    """Make feature maps of different widths and sizes."""

    def inputs(batch):
        return dict(
            preds_S=noise(batch, *shape_S, key=1),
            preds_T=2 * noise(batch, *shape_T, key=2),
        )

    return inputs


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


_PLAIN_MAPS = {
    key: {name: made[name] for name in ('preds_S', 'preds_T')}
    for key, made in _MAPS.items()
}
_PLAIN_MAPS['places'] = dict(
    preds_S=_BIG[None, :, :, None].repeat(2, 1, 1, 1),
    preds_T=-_BIG.flip(0)[None, :, :, None].repeat(2, 1, 1, 1),
)
_FEATURE_WIDTHS = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(2, 4, 2, 2)
)
_FEATURE_SHAPES = r'same shape, but got \(2, 3, 2, 2\) and \(2, 4, 2, 2\); '
_BATCHES = dict(
    preds_S=torch.zeros(2, 3, 2, 2), preds_T=torch.zeros(3, 3, 2, 2)
)
_NO_MAPS = r'of shape \(N, C, H, W\), but got \(2, 3\)'
_BN = dict(bn_weight=torch.tensor([1.0, -2.0, 0.0]), bn_bias=torch.ones(3))
_THREE = dict(num_channels=3)


# Losses that a teacher has no part in, or a past that is probabilities.
_ALONE = {
    key: {k: v for k, v in made.items() if k != 'preds_T'}
    for key, made in _LABELED.items()
}
_PAST = {
    key: dict(made, past_probs=_LABELED[key]['preds_T'].softmax(1))
    for key, made in _ALONE.items()
}
_THIRDS = torch.full((2, 3), 1 / 3)
_LABELS_OF_TWO = torch.tensor([0, 1])


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
        rejected=[*_BAD_TAU, _BAD_REDUCTION],
        rejected_inputs=[
            ({}, _WIDTHS, _SHAPES),
            ({}, _TUPLE, _NO_TENSOR),
            ({}, _SAME_MAPS, r'shape \(N, C\), but got \(2, 3, 2, 2\)'),
            ({}, dict(preds_S=_THIRDS), 'are needed, but got None'),
            (
                {},
                dict(preds_S=_BIG, gt_labels=torch.tensor([1, 1, 1])),
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
            *_wrong_labels(dict(preds_S=_THIRDS)),
        ],
    ),
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
            *_BAD_TAU,
            (dict(beta=-1), r'beta must be .*>= 0, but got -1'),
            (dict(gamma='2'), r"gamma must be .*>= 0, but got '2'"),
        ],
        rejected_inputs=[
            ({}, _WIDTHS, _SHAPES),
            ({}, _TUPLE, _NO_TENSOR),
            ({}, _SAME_MAPS, r'shape \(N, C\), but got \(2, 3, 2, 2\)'),
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
            _BAD_REDUCTION,
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
                    preds_S=_THIRDS,
                    past_probs=_THIRDS[:, :2],
                    gt_labels=_LABELS_OF_TWO,
                ),
                r'of the logits, \(2, 3\), but got \(2, 2\)',
            ),
            (
                {},
                dict(
                    preds_S=_THIRDS,
                    past_probs=torch.eye(3)[:2] - 0.25,
                    gt_labels=_LABELS_OF_TWO,
                ),
                r'sum to 1, but got values from -0\.25 to 0\.75 and sums from'
                r' 0\.25 to 0\.25',
            ),
            (
                {},
                dict(
                    preds_S=_THIRDS,
                    past_probs=_THIRDS,
                    gt_labels=_LABELS_OF_TWO,
                    alpha=2,
                ),
                'alpha must be .*<= 1, but got 2',
            ),
            (
                {},
                dict(
                    preds_S=_THIRDS,
                    past_probs=[_THIRDS],
                    gt_labels=_LABELS_OF_TWO,
                ),
                'past_probs must be a tensor, but got a list',
            ),
            *_wrong_labels(dict(preds_S=_THIRDS, past_probs=_THIRDS)),
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
            *_BAD_TAU,
            _BAD_REDUCTION,
            (dict(alpha=1.1), r'alpha must be .*<= 1, but got 1\.1'),
            (dict(correct_prob=1.0), r'correct_prob .*< 1.* got 1\.0'),
            (dict(correct_prob=0), r'correct_prob .*> 0.* got 0'),
            (dict(multiplier=-1), 'multiplier must be .*>= 0, but got -1'),
            (dict(official_compat=1), 'official_compat must .* got 1'),
        ],
        rejected_inputs=[
            (
                {},
                dict(preds_S=(_THIRDS,), gt_labels=_LABELS_OF_TWO),
                _NO_TENSOR,
            ),
            (
                {},
                dict(preds_S=torch.zeros(2, 1), gt_labels=_LABELS_OF_TWO),
                'at least 2 classes are needed, but got 1',
            ),
            (
                {},
                dict(
                    preds_S=torch.zeros(2, 3, 2, 2), gt_labels=_LABELS_OF_TWO
                ),
                r'shape \(N, C\), but got \(2, 3, 2, 2\)',
            ),
            *_wrong_labels(dict(preds_S=_THIRDS)),
        ],
    ),
    ATLoss=LossContract(
        cases=dict(
            default=Case({}, stages((3, 2, 3), (3, 2, 3))),
            other_width=Case(dict(p=3), stages((3, 4, 4), (2, 2, 2))),
            crossed=Case(dict(p=4.0), stages((3, 2, 5), (3, 4, 2))),
        ),
        reference=at_reference,
        extremes=_PLAIN_MAPS,
        rejected=[
            (dict(p=0.5), r'p must be .*>= 1, but got 0\.5'),
            (dict(p='two'), r"p must be .* got 'two'"),
        ],
        rejected_inputs=[
            ({}, _TWO, _NO_MAPS),
            ({}, _TUPLE, _NO_TENSOR),
            ({}, _BATCHES, 'same batch size, but got 2 and 3'),
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
        extremes=_PLAIN_MAPS,
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
            ({}, _FEATURE_WIDTHS, _FEATURE_SHAPES + 'put a ConvConnector'),
            ({}, _TWO, _NO_MAPS),
            ({}, _TUPLE, _NO_TENSOR),
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
            ({}, _FEATURE_WIDTHS, _FEATURE_SHAPES + 'put an MGDConnector'),
            ({}, _TUPLE, _NO_TENSOR),
        ],
    ),
    NSTLoss=LossContract(
        cases=dict(
            many_places=Case({}, stages((3, 4, 4), (3, 4, 4))),
            few_places=Case({}, stages((3, 2, 2), (3, 2, 2))),
            other_width=Case({}, stages((2, 4, 3), (3, 4, 3))),
            other_size=Case({}, stages((4, 3, 2), (5, 5, 3))),
        ),
        reference=nst_reference,
        extremes=_PLAIN_MAPS,
        rejected=[],
        rejected_inputs=[
            ({}, _TWO, _NO_MAPS),
            ({}, _TUPLE, _NO_TENSOR),
            ({}, _BATCHES, 'same batch size, but got 2 and 3'),
        ],
    ),
    OFDLoss=LossContract(
        cases=dict(
            default=Case({}, normed(3, 2, 4)),
            released=Case(dict(margin_form='released'), normed(3, 2, 4)),
        ),
        reference=ofd_reference,
        extremes={k: dict(made, **_BN) for k, made in _PLAIN_MAPS.items()},
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
                dict(_FEATURE_WIDTHS, **_BN),
                _FEATURE_SHAPES + 'put a ConvConnector',
            ),
            ({}, dict(_TWO, **_BN), _NO_MAPS),
            ({}, dict(_TUPLE, **_BN), _NO_TENSOR),
            (
                {},
                dict(_SAME_MAPS, bn_weight=torch.ones(3), bn_bias=_BIG),
                r'bn_bias must .*teacher, 3, but got the shape \(3, 3\)',
            ),
            (
                {},
                dict(_SAME_MAPS, bn_weight=None, bn_bias=torch.ones(3)),
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
                _FEATURE_WIDTHS,
                _FEATURE_SHAPES + 'put ConvConnectors',
            ),
            (
                dict(num_channels=4),
                _TWO,
                r'shape \(N, 4, \*\), as there are 4 .* got \(2, 3\)',
            ),
            (_THREE, _TUPLE, _NO_TENSOR),
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
        extremes=_ROW_EXTREMES,
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
        rejected_inputs=_BAD_ROWS,
    ),
    SPLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            widths=Case({}, widths((2, 3, 2), (5,))),
        ),
        reference=sp_reference,
        extremes=_ROW_EXTREMES,
        rejected=_NO_WEIGHT,
        rejected_inputs=_BAD_ROWS,
    ),
    PKTLoss=LossContract(
        cases=dict(
            default=Case({}, pair(5)),
            widths=Case({}, widths((2, 3, 2), (5,))),
        ),
        reference=pkt_reference,
        extremes=_ROW_EXTREMES,
        rejected=_NO_WEIGHT,
        rejected_inputs=_BAD_ROWS,
    ),
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
        extremes=_ROW_EXTREMES,
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
            *_BAD_ROWS,
            *(
                (options, _WIDTHS, _SHAPES + '; put a ConvConnector or Lin')
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
)


def _logits(*names: str) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: {
        name: noise(batch, 6, key=key) for key, name in enumerate(names)
    }


def _feature(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: dict(feature=noise(batch, *shape))


_WIDTH = dict(in_channels=3, out_channels=2)

CONNECTORS = dict(
    MGDConnector=ConnectorContract(
        # What is random is tested with the connector.
        cases=dict(
            default=Case(dict(_WIDTH, mask_ratio=0.0), _feature(3, 3, 4)),
            same_width=Case(
                dict(
                    in_channels=2,
                    out_channels=2,
                    mask_on='spatial',
                    mask_ratio=0,
                ),
                _feature(2, 3, 2),
            ),
        ),
        reference=generation_reference,
        rejected=[
            (dict(_WIDTH, in_channels=0), r'in_channels must .* got 0'),
            (dict(_WIDTH, out_channels=-1), r'out_channels must .* got -1'),
            (dict(_WIDTH, mask_ratio=1.0), r'mask_ratio .*< 1, .* got 1\.0'),
            (dict(_WIDTH, mask_ratio=-0.1), r'mask_ratio .* got -0\.1'),
            (
                dict(_WIDTH, mask_on='pixel'),
                r"mask_on must be one of .*'spatial'\), but got 'pixel'",
            ),
        ],
        learnable=True,
    ),
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
