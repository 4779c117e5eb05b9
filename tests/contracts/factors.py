"""Factor transfer: its loss and both of its connectors."""

from itertools import product

import torch

from contracts.base import (
    Case,
    ConnectorContract,
    LossContract,
    batch_normed,
    noise,
    pair,
    unit_row,
)
from contracts.inputs import (
    EXTREMES,
    FEATURE_SHAPES,
    FEATURE_WIDTHS,
    NO_TENSOR,
    TUPLE,
)


def ft_reference(preds_S, preds_T, distance='l1'):
    """Normalise each sample, then average over all values."""
    gaps = [
        abs(s - t)
        for row_S, row_T in zip(
            preds_S.flatten(1).tolist(),
            preds_T.flatten(1).tolist(),
            strict=True,
        )
        for s, t in zip(unit_row(row_S), unit_row(row_T), strict=True)
    ]
    power = 1 if distance == 'l1' else 2
    return sum(gap**power for gap in gaps) / max(len(gaps), 1)


def _leaky(value: float) -> float:
    return value if value > 0 else 0.1 * value


def layers_reference(layers, feature, normed, transposed=False):
    """Convolve 3x3, normalise, rectify; place by place."""
    for conv in [layer for layer in layers if hasattr(layer, 'kernel_size')]:
        weight = conv.weight.detach()
        if transposed:
            # What a place gives to another is what that one takes of it.
            weight = weight.transpose(0, 1).flip(2, 3)
        batch, _, height, width = feature.shape
        out = torch.zeros(
            batch, len(weight), height, width, dtype=torch.float64
        )
        for i, o, y, x in product(*map(range, out.shape)):
            total = conv.bias[o].item()
            for dy, dx in product((-1, 0, 1), (-1, 0, 1)):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    column = feature[i, :, y + dy, x + dx]
                    total += column @ weight[o, :, dy + 1, dx + 1]
            out[i, o, y, x] = total
        if normed:
            out = batch_normed(out)
        feature = out.clone().apply_(_leaky)
    return feature


def translator_reference(
    connector, feature, in_channels, out_channels, norm_cfg=None
):
    return layers_reference(connector.encoder, feature, norm_cfg is not None)


def paraphraser_reference(
    connector, feature, in_channels, out_channels, norm_cfg=None
):
    normed = norm_cfg is not None
    factor = layers_reference(connector.encoder, feature, normed)
    made = layers_reference(connector.decoder, factor, normed, transposed=True)
    return factor, made


def _feature(batch: int) -> dict:
    return dict(feature=noise(batch, 3, 3, 2))


_WIDTH = dict(in_channels=3, out_channels=2)
_CASES = dict(
    default=Case(_WIDTH, _feature),
    normed=Case(dict(_WIDTH, norm_cfg=dict(type='BN')), _feature),
)
_REJECTED = [
    (dict(_WIDTH, in_channels=0), r'in_channels must .* got 0'),
    (dict(_WIDTH, out_channels=1.5), r'out_channels must .* got 1\.5'),
]

LOSSES = dict(
    FTLoss=LossContract(
        cases=dict(
            default=Case({}, pair(3, 2, 4)),
            squared=Case(dict(distance='squared'), pair(3, 2, 4)),
            vectors=Case({}, pair(6)),
        ),
        reference=ft_reference,
        extremes=EXTREMES,
        rejected=[
            (
                dict(distance='l2'),
                r"distance must be one of \('l1', 'squared'\), but got 'l2'",
            )
        ],
        rejected_inputs=[
            (
                {},
                FEATURE_WIDTHS,
                FEATURE_SHAPES + 'put a TranslatorConnector .* Paraphraser',
            ),
            ({}, TUPLE, NO_TENSOR),
        ],
    ),
)
CONNECTORS = dict(
    ParaphraserConnector=ConnectorContract(
        cases=_CASES,
        reference=paraphraser_reference,
        rejected=[
            *_REJECTED,
            (
                dict(_WIDTH, prefix='paraphraser'),
                "got 'paraphraser' without a checkpoint",
            ),
        ],
        learnable=True,
    ),
    TranslatorConnector=ConnectorContract(
        cases=_CASES,
        reference=translator_reference,
        rejected=_REJECTED,
        learnable=True,
    ),
)
