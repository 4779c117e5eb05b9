"""Connectors."""

import math
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import torch
from torch import Tensor

from contracts.base import (
    Case,
    ConnectorContract,
    dot,
    log_softmax_row,
    lowest,
    noise,
)
from contracts.inputs import SHAPES


def average_reference(connector, logits, tau=1.0, weights=None, **others):
    """Average the probabilities of each sample and place; then the log."""
    teachers = [logits, *others.values()]
    weights = weights or [1] * len(teachers)
    columns = [one.movedim(1, -1) for one in teachers]
    made = []
    for rows in zip(
        *(one.reshape(-1, one.shape[-1]).tolist() for one in columns),
        strict=True,
    ):
        softened = [log_softmax_row([z / tau for z in row]) for row in rows]
        probs = [[math.exp(z) for z in row] for row in softened]
        made.append(
            [
                tau * math.log(dot(weights, at) / sum(weights))
                for at in zip(*probs, strict=True)
            ]
        )
    out = torch.tensor(made, dtype=torch.float64).view(columns[0].shape)
    return out.movedim(-1, 1)


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


def _transposed(conv, feature, kernel_size, stride, pad):
    """Give every value, times the kernel, to the places that it reaches."""
    batch, _, height, width = feature.shape
    size = [(n - 1) * stride + kernel_size - 2 * pad for n in (height, width)]
    out = torch.zeros(batch, conv.out_channels, *size, dtype=torch.float64)
    if conv.bias is not None:
        out += conv.bias.detach().view(1, -1, 1, 1)
    weight = conv.weight.detach()
    for y, x, ky, kx in product(
        range(height), range(width), range(kernel_size), range(kernel_size)
    ):
        row, column = stride * y + ky - pad, stride * x + kx - pad
        if 0 <= row < size[0] and 0 <= column < size[1]:
            given = feature[:, :, y, x] @ weight[:, :, ky, kx]
            out[:, :, row, column] += given
    return out


def conv_reference(
    connector,
    feature,
    kernel_size=1,
    stride=1,
    padding=None,
    transposed=False,
    **options,
):
    """Convolve with loops, then normalise over the batch and rectify."""
    conv = connector.conv.conv
    pad = kernel_size // 2 if padding is None else padding
    if transposed:
        return _transposed(conv, feature, kernel_size, stride, pad)
    weight = conv.weight.tolist()
    batch, channels, height, width = feature.shape
    size = [(n + 2 * pad - kernel_size) // stride + 1 for n in (height, width)]
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


def generation_reference(connector, feature, in_channels, out_channels, **k):
    """Convolve with loops what is not masked."""

    def convolved(layer, feature, kernel_size=3):
        block = SimpleNamespace(conv=SimpleNamespace(conv=layer))
        return conv_reference(block, feature, kernel_size)

    if in_channels != out_channels:
        feature = convolved(connector.align, feature, 1)
    first, _, second = connector.generation
    return convolved(second, convolved(first, feature).clamp(min=0))


def _logits(*names: str) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: {
        name: noise(batch, 6, key=key) for key, name in enumerate(names)
    }


def _feature(*shape: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda batch: dict(feature=noise(batch, *shape))


_WIDTH = dict(in_channels=3, out_channels=2)


CONNECTORS = dict(
    AverageProbabilities=ConnectorContract(
        cases=dict(
            default=Case({}, _logits('logits', 'second')),
            warm=Case(dict(tau=4.0), _logits('logits', 'second', 'third')),
            weights=Case(
                dict(tau=0.5, weights=[1, 0, 2.5]),
                _logits('logits', 'second', 'third'),
            ),
            alone=Case(dict(tau=2.0), _logits('logits')),
            maps=Case(
                dict(tau=2.0),
                lambda batch: dict(
                    logits=noise(batch, 5, 2, 3),
                    second=noise(batch, 5, 2, 3, key=1),
                ),
            ),
        ),
        reference=average_reference,
        rejected=[
            (dict(tau=0), r'tau must be .* > 0, but got 0'),
            (dict(weights=2), 'weights must be a sequence .* but got 2'),
            (dict(weights='11'), "weights must be a sequence .* got '11'"),
            (dict(weights=[1, -1]), r'a weight must be .*>= 0, but got -1'),
            (dict(weights=[0, 0]), r'must be positive, but got \[0, 0\]'),
            (dict(weights=[]), r'must be positive, but got \[\]'),
        ],
        rejected_inputs=[
            (
                {},
                dict(logits=torch.zeros(2, 3), second=torch.zeros(2, 4)),
                r'same shape \(N, C, \*\), but got \(2, 3\), \(2, 4\)',
            ),
            (
                dict(weights=[1, 1]),
                dict(logits=torch.zeros(2, 3)),
                r'for each of the 1 teachers, but got \[1, 1\]',
            ),
            (
                {},
                dict(logits=torch.zeros(3)),
                r'shape \(N, C, \*\), but got \(3,\)',
            ),
            (
                {},
                dict(logits=torch.zeros(2, 3), second=(torch.zeros(2, 3),)),
                'must be a tensor, but got a tuple',
            ),
        ],
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
                SHAPES,
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
            unpadded=Case(
                dict(_WIDTH, kernel_size=2, padding=0), _feature(3, 4, 3)
            ),
            grown=Case(
                dict(
                    _WIDTH,
                    kernel_size=4,
                    stride=2,
                    padding=1,
                    transposed=True,
                ),
                _feature(3, 2, 3),
            ),
            transposed=Case(
                dict(_WIDTH, kernel_size=3, transposed=True),
                _feature(3, 2, 3),
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
            (dict(_WIDTH, padding=-1), 'padding must be .*>= 0.* got -1'),
            (dict(_WIDTH, padding=0.5), r'padding must be .* got 0\.5'),
            (dict(_WIDTH, transposed=1), 'transposed must be True .* got 1'),
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
)
