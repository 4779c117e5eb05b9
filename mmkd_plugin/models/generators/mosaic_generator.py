"""Images from noise, as MosaicKD makes them."""

from itertools import pairwise
from typing import Optional, Union

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_count
from mmkd_plugin.utils.precision import full_precision

# The published generator has two up steps and starts at 8x8 for 32 pixels.
LEAST_UPSAMPLES = 2
LARGEST_START = 8
# The widest map has so many times the channels of the narrowest one.
LARGEST_FACTOR = 8

# Where an image is made, half precision has fewer levels than 8 bit pixels.
_sigmoid = full_precision(torch.sigmoid)


@MODELS.register_module()
class MosaicGenerator(BaseModule):
    """Make images from noise.

    Reference:
        Fang et al., Mosaicking to Distill: Knowledge Distillation from
        Out-of-Domain Data, NeurIPS 2021, https://arxiv.org/abs/2110.15094.
        A linear layer makes a small map of the noise, which is normalised
        (without an activation). Each up step doubles the side of the map by
        nearest neighbours, and a 3x3 convolution, normalisation and
        ``LeakyReLU(0.2)`` follow. A 3x3 convolution and a sigmoid make the
        image.

        With the default options it is the published network for 32x32, of
        2 026 051 parameters; ``num_upsamples=2`` is the published form at
        any other size. The form for larger images is not the published one,
        which was never used in an experiment, but inferred: more up steps,
        so that the first map is not larger than 8x8, and channels that halve
        at each step down to ``base_channels``, from ``8 * base_channels`` at
        most.

    Args:
        latent_dim (int): Numbers of noise an image is made of. Defaults to
            100.
        base_channels (int): Channels of the last map, of the size of the
            image. Defaults to 64.
        image_size (int): Height and width of the images, pixels. It must be
            a multiple of ``2 ** num_upsamples``. Defaults to 32.
        out_channels (int): Channels of the images. Defaults to 3.
        num_upsamples (int, optional): How many up steps. Defaults to None,
            the fewest, two at least, that start from 8x8 or less: 2 up to 32
            pixels, 3 up to 64, 4 up to 128, 5 up to 256.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            None, which keeps that of the layers, as published.

    Raises:
        ValueError: If an option is out of its range, or if the generator
            does not reach ``image_size``.

    Example:
        >>> generator = MosaicGenerator(base_channels=4)
        >>> generator(generator.sample_latent(2)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        *,
        latent_dim: int = 100,
        base_channels: int = 64,
        image_size: int = 32,
        out_channels: int = 3,
        num_upsamples: Optional[int] = None,
        init_cfg: Optional[Union[dict, list[dict]]] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_count('latent_dim', latent_dim)
        check_count('base_channels', base_channels)
        check_count('image_size', image_size)
        check_count('out_channels', out_channels)
        if num_upsamples is None:
            num_upsamples = LEAST_UPSAMPLES
            while image_size > LARGEST_START * 2**num_upsamples:
                num_upsamples += 1
        check_count('num_upsamples', num_upsamples)
        _check_reachable(image_size, num_upsamples)

        self.latent_dim = latent_dim
        self.image_size = image_size
        self.out_channels = out_channels
        self.num_upsamples = num_upsamples
        side = image_size // 2**num_upsamples
        channels = [
            base_channels * min(2**left, LARGEST_FACTOR)
            for left in range(num_upsamples, -1, -1)
        ]
        self.start_shape = (channels[0], side, side)
        self.project = nn.Linear(latent_dim, channels[0] * side * side)
        layers = [nn.BatchNorm2d(channels[0])]
        for before, after in pairwise(channels):
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(channels[-1], out_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def sample_latent(
        self, count: int, *, generator: Optional[torch.Generator] = None
    ) -> Tensor:
        """Draw noise from the standard normal distribution.

        Args:
            count (int): How many samples.
            generator (torch.Generator, optional): What draws them, on any
                device. Defaults to None, the one of the network's device.

        Returns:
            Tensor: Shape ``(count, latent_dim)``, with the network's dtype
            and on its device.

        Raises:
            ValueError: If ``count`` is no integer of 1 or more.
        """
        check_count('count', count)
        like = self.project.weight
        device = like.device if generator is None else generator.device
        noise = torch.randn(
            count,
            self.latent_dim,
            generator=generator,
            dtype=like.dtype,
            device=device,
        )
        return noise.to(like.device)

    def forward(self, z: Tensor) -> Tensor:
        """Make images.

        Args:
            z (Tensor): Noise, shape ``(N, latent_dim)``.

        Returns:
            Tensor: Images in [0, 1], shape ``(N, out_channels, image_size,
            image_size)``. They are float32 where the layers compute in half
            precision.

        Raises:
            ValueError: If ``z`` is not of that shape.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(
                f'noise must have the shape (N, {self.latent_dim}), but got '
                f'{tuple(z.shape)}'
            )
        start = self.project(z).unflatten(1, self.start_shape)
        return _sigmoid(self.layers(start))


def _check_reachable(image_size: int, num_upsamples: int) -> None:
    step = 2**num_upsamples
    if image_size % step == 0:
        return
    below = image_size // step * step
    sizes = [str(size) for size in (below, below + step) if size]
    hint = ''
    # The largest power of two in it.
    fewer = (image_size & -image_size).bit_length() - 1
    if fewer:
        hint = f'; num_upsamples={fewer} reaches {image_size}'
    raise ValueError(
        f'image_size must be a multiple of {step} with {num_upsamples} up '
        f'steps, but got {image_size}, nearest: {", ".join(sizes)}{hint}'
    )
