"""What a convolutional network sees of an image."""

from typing import NamedTuple

from torch import nn

# What leaves each position of a map to itself. SyncBatchNorm is one, too.
_POINTWISE = (nn.modules.batchnorm._BatchNorm, nn.LeakyReLU)


class ReceptiveField(NamedTuple):
    """The square of the input that one output value depends on.

    Attributes:
        size (int): Side of the square, pixels.
        stride (int): Distance of the squares of neighbouring values, pixels.
    """

    size: int
    stride: int


def receptive_field(layers: nn.Sequential) -> ReceptiveField:
    """Compute the receptive field of layers that follow one another.

    Args:
        layers (nn.Sequential): Convolutions with square kernels, batch
            normalisations (taken as in eval mode: batch statistics are of
            the whole batch), leaky ReLUs, and such sequences again.

    Returns:
        ReceptiveField: Side and stride, pixels. Of a square that reaches
        beyond the image, the rest is padding.

    Raises:
        ValueError: If there is another layer, whose reach is not known here,
            or a convolution that is not square.

    Example:
        >>> from torch import nn
        >>> layers = nn.Sequential(nn.Conv2d(3, 8, 4, 2), nn.Conv2d(8, 1, 3))
        >>> receptive_field(layers)
        ReceptiveField(size=8, stride=2)
    """
    size, stride = 1, 1
    for layer in _flat(layers):
        if isinstance(layer, _POINTWISE):
            continue
        if not isinstance(layer, nn.Conv2d):
            raise ValueError(f'the receptive field of {layer} is not known')
        sides = (layer.kernel_size, layer.stride, layer.dilation)
        if any(side[0] != side[1] for side in sides):
            raise ValueError(
                f'convolutions must be square in kernel, stride and '
                f'dilation, but got {layer}'
            )
        size += (layer.kernel_size[0] - 1) * layer.dilation[0] * stride
        stride *= layer.stride[0]
    return ReceptiveField(size, stride)


def _flat(layers: nn.Sequential) -> list[nn.Module]:
    flat = []
    for layer in layers:
        flat += _flat(layer) if isinstance(layer, nn.Sequential) else [layer]
    return flat
