"""The convolutions that make a factor of a feature map."""

from itertools import pairwise
from typing import Optional

from mmcv.cnn import build_norm_layer
from torch import nn


def factor_layers(
    widths: list[int], norm_cfg: Optional[dict], transposed: bool = False
) -> nn.Sequential:
    """Chain 3x3 convolutions that keep the size of a map.

    Each is followed by a leaky ReLU with a slope of 0.1.

    Args:
        widths (list[int]): Channels in front of each convolution, and behind
            the last one.
        norm_cfg (dict, optional): Config of a normalisation layer behind
            each convolution.
        transposed (bool): Whether the convolutions are transposed ones.
            Defaults to False.

    Returns:
        nn.Sequential: The layers.
    """
    conv = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers = []
    for before, behind in pairwise(widths):
        layers.append(conv(before, behind, 3, padding=1))
        if norm_cfg is not None:
            layers.append(build_norm_layer(norm_cfg, behind)[1])
        layers.append(nn.LeakyReLU(0.1, inplace=True))
    return nn.Sequential(*layers)
