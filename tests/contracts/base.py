"""What a contract is made of: its fields, its inputs, its arithmetic.

``noise`` and what is built on it make the inputs of a case; the rest are
the sums that several references share, on lists of numbers.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
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
    # Inputs and options to a function of the inputs with the loss's gradient,
    # where a part of the student's is detached: a constant in that function.
    held: Optional[Callable] = None
    # What is done to the built loss and returns it. One that changes while it
    # trains is put into eval mode: its value then depends on inputs alone.
    prepare: Optional[Callable] = None


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


def widths(shape_S: tuple, shape_T: tuple) -> Callable:
    """Make student and teacher tensors of two shapes, batch size apart."""

    def inputs(batch):
        return dict(
            preds_S=noise(batch, *shape_S, key=1),
            preds_T=2 * noise(batch, *shape_T, key=2),
        )

    return inputs


def masked(inputs: Callable, *names: str) -> Callable:
    """Set the two lowest teacher classes of a sample to -inf, by names."""

    def masked_inputs(batch):
        made = inputs(batch)
        dropped = made['preds_T'].topk(2, dim=1, largest=False).indices
        for name in names:
            made[name] = made[name].scatter(1, dropped, -math.inf)
        return made

    return masked_inputs


def labeled(inputs: Callable) -> Callable:
    """Add labels to inputs of logits or logit maps."""

    def labeled_inputs(batch):
        made = inputs(batch)
        classes = made['preds_S'].shape[1]
        return dict(made, gt_labels=torch.arange(batch) * 2 % classes)

    return labeled_inputs


def lowest(row: list[float], count: int) -> set[int]:
    """Get the places of the lowest values."""
    return set(sorted(range(len(row)), key=row.__getitem__)[:count])


def log_softmax_row(row: list[float]) -> list[float]:
    """Compute the log-probabilities of a list of logits."""
    top = max(row)
    total = math.log(sum(math.exp(z - top) for z in row))
    return [z - top - total for z in row]


def without(row: list[float], label: int) -> list[float]:
    return [z for k, z in enumerate(row) if k != label]


def divergence(row_S: list[float], row_T: list[float]) -> float:
    """Sum p_T (log p_T - log p_S) over the entries that p_T has."""
    return sum(
        math.exp(t) * (t - s)
        for s, t in zip(
            log_softmax_row(row_S), log_softmax_row(row_T), strict=True
        )
        if t != -math.inf
    )


def reduced(terms: list, reduction: str):
    if reduction == 'none':
        return torch.tensor(terms, dtype=torch.float64)
    divisor = max(len(terms), 1) if reduction == 'batchmean' else 1
    return sum(terms) / divisor


def labeled_rows(preds_S, preds_T, gt_labels):
    return zip(
        preds_S.tolist(), preds_T.tolist(), gt_labels.tolist(), strict=True
    )


def unit_row(row: list[float], eps: float = 0.0) -> list[float]:
    length = math.hypot(*row)
    return [v / (length + eps) if length else 0.0 for v in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def gram(rows: list[list[float]]) -> list[list[float]]:
    return [[dot(a, b) for b in rows] for a in rows]


def squared_gaps(
    rows_S: list[list[float]], rows_T: list[list[float]]
) -> float:
    return sum(
        math.dist(a, b) ** 2 for a, b in zip(rows_S, rows_T, strict=True)
    )


def pooled(
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


def huber(gap: float) -> float:
    return gap**2 / 2 if abs(gap) <= 1 else abs(gap) - 0.5


def batch_normed(feature: Tensor) -> Tensor:
    """Give every channel the mean 0 and the variance 1, in place."""
    for channel in feature.unbind(1):
        values = channel.flatten().tolist()
        mean = sum(values) / len(values)
        var = sum((v - mean) ** 2 for v in values) / len(values)
        channel.sub_(mean).div_(math.sqrt(var + 1e-5))
    return feature
