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
from itertools import product

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

LOSSES = dict(
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
