"""Many images of a trained generator."""

import copy
from collections.abc import Iterator
from typing import Union

import numpy as np
import torch
from torch import nn

from mmkd_plugin.utils.checks import check_count, check_number

# PyTorch's generator on the CPU takes 32 bits of a seed.
LARGEST_SEED = 2**32 - 1


def synthesize(
    generator: nn.Module,
    num_images: int,
    *,
    seed: int = 0,
    batch_size: int = 256,
    device: Union[str, torch.device] = 'cpu',
) -> Iterator[np.ndarray]:
    """Make images of 8 bits.

    The noise of all images is one stream of the seed, drawn on the CPU, one
    image after the other; more images of the same seed begin with the same
    ones. The network computes in float64: its rounding errors, which depend
    on the batch size, on the number of threads and on the device, are then
    too small to be seen after rounding to 8 bits. In float32 they are not.

    Args:
        generator (nn.Module): See
            :func:`~mmkd_plugin.engine.generator_export.load_generator`. It
            is used in eval mode and stays what and where it is.
        num_images (int): How many.
        seed (int): Of the noise, less than 2 ** 32. Defaults to 0.
        batch_size (int): How many are made at a time. Defaults to 256.
        device (str or torch.device): Where. Defaults to 'cpu'.

    Returns:
        Iterator[np.ndarray]: uint8, shape ``(n, image_size, image_size,
        out_channels)``, ``batch_size`` images each but the last ones: 255
        times what the generator gives, rounded half to even.

    Raises:
        ValueError: If an option is wrong; while iterating, if an image is
            not in [0, 1].
    """
    check_count('num_images', num_images)
    check_count('seed', seed, least=0)
    check_number('seed', seed, most=LARGEST_SEED)
    check_count('batch_size', batch_size)
    # The copy is made now: what is trained meanwhile does not matter.
    network = copy.deepcopy(generator).to(device, torch.double).train(False)
    return _batches(network, num_images, seed, batch_size, device)


def _batches(
    network: nn.Module,
    num_images: int,
    seed: int,
    batch_size: int,
    device: Union[str, torch.device],
) -> Iterator[np.ndarray]:
    source = torch.Generator().manual_seed(seed)
    for start in range(0, num_images, batch_size):
        count = min(batch_size, num_images - start)
        # What many at a time give depends on their number.
        noise = [
            network.sample_latent(1, generator=source) for _ in range(count)
        ]
        with torch.no_grad():
            images = network(torch.cat(noise).to(device))
        low, high = images.aminmax()
        # Also true for NaN.
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f'the generator must make images in [0, 1], but made values '
                f'from {low.item():.3g} to {high.item():.3g}'
            )
        pixels = (255 * images).round().to(torch.uint8)
        yield pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
