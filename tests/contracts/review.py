"""Knowledge review: the fusion of stages, and what pools a map."""

import math
from itertools import product

import torch

from contracts.base import Case, ConnectorContract, batch_normed, noise, pooled


def pool_reference(connector, feature, size):
    """Average over the cells of the smaller map."""
    size = (size, size) if isinstance(size, int) else size
    height, width = (
        min(a, b) for a, b in zip(feature.shape[2:], size, strict=True)
    )
    return torch.tensor(
        [
            [pooled(plane, height, width) for plane in image]
            for image in feature.tolist()
        ],
        dtype=torch.float64,
    ).reshape(*feature.shape[:2], height, width)


def _convolved(weight, feature):
    """Sum over the kernel, which is 1x1 or 3x3, and the channels."""
    batch, _, height, width = feature.shape
    reach = weight.shape[2] // 2
    steps = range(-reach, reach + 1)
    out = torch.zeros(batch, len(weight), height, width, dtype=torch.float64)
    for i, o, y, x in product(*map(range, out.shape)):
        for dy, dx in product(steps, steps):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                column = feature[i, :, y + dy, x + dx]
                kernel = weight[o, :, dy + reach, dx + reach]
                out[i, o, y, x] += column @ kernel
    return out


def _nearest(feature, height, width):
    """Take the place of the other map whose cell this one is in."""
    rows = [y * feature.shape[2] // height for y in range(height)]
    columns = [x * feature.shape[3] // width for x in range(width)]
    return feature[:, :, rows][:, :, :, columns]


def review_reference(
    connector,
    feature,
    in_channels,
    out_channels,
    mid_channels=None,
    out_sizes=None,
    **deeper,
):
    """Go from the deepest stage to the shallowest, formula by formula."""
    maps = [feature, *(deeper[f'level{k + 2}'] for k in range(len(deeper)))]
    weights = {k: v.detach() for k, v in connector.named_parameters()}
    fused, outputs = None, []
    for k in reversed(range(len(maps))):
        part = f'fusions.{k}'
        own = batch_normed(
            _convolved(weights[f'{part}.reduce.0.weight'], maps[k])
        )
        batch, mid, height, width = own.shape
        assert mid == (mid_channels or in_channels[-1])
        if fused is None:
            fused = own
        else:
            other = _nearest(fused, height, width)
            fused = torch.zeros_like(own)
            kernel = weights[f'{part}.attention.weight'][:, :, 0, 0]
            bias = weights[f'{part}.attention.bias']
            for i, y, x in product(range(batch), range(height), range(width)):
                both = [*own[i, :, y, x], *other[i, :, y, x]]
                scores = [
                    sum(w * v for w, v in zip(line, both, strict=True)) + b
                    for line, b in zip(kernel, bias, strict=True)
                ]
                share, rest = (1 / (1 + math.exp(-score)) for score in scores)
                fused[i, :, y, x] = (
                    share * own[i, :, y, x] + rest * other[i, :, y, x]
                )
        if out_sizes is not None:
            size = out_sizes[k]
            size = (size, size) if isinstance(size, int) else size
            fused = _nearest(fused, *size)
        outputs.append(
            batch_normed(_convolved(weights[f'{part}.expand.0.weight'], fused))
        )
    return tuple(reversed(outputs))


def _stages(*shapes: tuple):
    names = ['feature', *(f'level{k + 2}' for k in range(len(shapes) - 1))]
    return lambda batch: {
        name: noise(batch, *shape, key=key)
        for key, (name, shape) in enumerate(zip(names, shapes, strict=True))
    }


_TWO = dict(in_channels=[2, 3], out_channels=[3, 2])
_THREE = dict(in_channels=[2, 3, 4], out_channels=[3, 2, 5])
_FIRST, _SECOND = torch.zeros(2, 2, 4, 4), torch.zeros(2, 3, 2, 2)

CONNECTORS = dict(
    PoolConnector=ConnectorContract(
        cases=dict(
            place=Case(
                dict(size=1), lambda batch: dict(feature=noise(batch, 3, 4, 2))
            ),
            cells=Case(
                dict(size=(3, 2)),
                lambda batch: dict(feature=noise(batch, 2, 4, 5)),
            ),
            one_side=Case(
                dict(size=3), lambda batch: dict(feature=noise(batch, 2, 2, 6))
            ),
            no_side=Case(
                dict(size=8), lambda batch: dict(feature=noise(batch, 2, 2, 3))
            ),
        ),
        reference=pool_reference,
        rejected=[
            (dict(size=0), 'size must be a positive integer .* got 0'),
            (dict(size=2.0), r'size must .* got 2\.0'),
            (dict(size=(1, 2, 3)), r'size must .* got \(1, 2, 3\)'),
            (dict(size=(1, -1)), r'size must .* got \(1, -1\)'),
        ],
        rejected_inputs=[
            (
                dict(size=1),
                dict(feature=torch.zeros(2, 3)),
                r'shape \(N, C, H, W\), but got \(2, 3\)',
            ),
            (
                dict(size=1),
                dict(feature=(torch.zeros(2, 3, 1, 1),)),
                'feature must be a tensor, but got a tuple.* data_idx',
            ),
        ],
    ),
    ReviewConnector=ConnectorContract(
        cases=dict(
            default=Case(_TWO, _stages((2, 4, 3), (3, 2, 2))),
            three=Case(
                dict(_THREE, mid_channels=2),
                _stages((2, 4, 4), (3, 2, 2), (4, 1, 2)),
            ),
            same_size=Case(_TWO, _stages((2, 2, 3), (3, 2, 3))),
            out_sizes=Case(
                dict(_TWO, out_sizes=[(5, 2), 3]),
                _stages((2, 4, 3), (3, 2, 2)),
            ),
        ),
        reference=review_reference,
        rejected=[
            (dict(_TWO, in_channels=[2]), r'at least 2 .*, but got \[2\]'),
            (dict(_TWO, in_channels=64), 'in_channels must .* got 64'),
            (
                dict(_TWO, out_channels=[3, 2, 1]),
                r'out_channels must .* 2 stages .* got \[3, 2, 1\]',
            ),
            (dict(_TWO, in_channels=[0, 3]), r'in_channels\[0\] .* got 0'),
            (dict(_TWO, out_channels=[3, 2.0]), r'channels\[1\] .* got 2\.0'),
            (dict(_TWO, mid_channels=0), 'mid_channels must .* got 0'),
            (dict(_TWO, out_sizes=[4]), r'out_sizes must .* got \[4\]'),
            (dict(_TWO, out_sizes=[4, 0]), r'out_sizes\[1\] must .* got 0'),
        ],
        rejected_inputs=[
            (
                _THREE,
                dict(feature=_FIRST, level2=_SECOND),
                'needs 3 maps, but got 2: give level3 as connector_inputs',
            ),
            (
                _TWO,
                dict(feature=_FIRST, level2=_SECOND, level3=_SECOND),
                "takes, .* level2, but got 'level3'; nearest: level2",
            ),
            (
                _TWO,
                dict(feature=_FIRST, level2=_FIRST),
                r'level2 .* \(N, 3, H, W\), but got \(2, 2, 4, 4\)',
            ),
            (
                _TWO,
                dict(feature=_FIRST, level2=torch.zeros(2, 3)),
                r'level2 must have the shape .*, but got \(2, 3\)',
            ),
            (
                _TWO,
                dict(feature=_FIRST, level2=None),
                'level2 must be a tensor, but got a NoneType',
            ),
        ],
        learnable=True,
    ),
)
