"""What MosaicKD's players make, looked at."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmkd_plugin.utils.counter_rng import counter_rng

from .mosaic_players import MosaicPlayers
from .network_state import in_mode
from .report import Picked, class_name, mosaic_figure, render

# The players' own noise has stream 2.
_NOISE_STREAM = 3


@torch.no_grad()
def mosaic_picture(
    players: MosaicPlayers,
    teacher: nn.Module,
    real: Tensor,
    title: str,
    *,
    classes: Sequence[str] = (),
    columns: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Draw synthetic images, real ones, and patches of both.

    The noise of the synthetic images depends on the seed alone: pictures of
    a run show what becomes of the same noise. The generator is in eval mode,
    in which it does not change and waits for no other process.

    Args:
        players (MosaicPlayers): The players.
        teacher (nn.Module): Normalised images in, logits ``(N, K)`` out.
            Where these are maps, images have no labels.
        real (Tensor): Normalised real images, shape ``(N, C, H, W)``.
        title (str): The moment, for example ``'epoch 3'``.
        classes (Sequence[str]): Names of the teacher's classes. Defaults to
            (), their numbers.
        columns (int): How many synthetic images. Defaults to 10.
        seed (int): Of the noise. Defaults to 0.

    Returns:
        np.ndarray: RGB, uint8, shape ``(H', W', 3)``.
    """
    generator = players.generator
    rng = counter_rng(seed, 0, 0, stream=_NOISE_STREAM)
    source = torch.Generator().manual_seed(int(rng.integers(2**63)))
    z = generator.sample_latent(columns, generator=source)
    with in_mode(generator, 'eval'):
        images = players.normalise(generator(z))
    figure = mosaic_figure(
        _pick(players, teacher, images, classes),
        _pick(players, teacher, real, classes),
        getattr(players.discriminator, 'receptive_field', images.shape[-1]),
        title,
        columns=columns,
    )
    return render(figure)


def _pick(
    players: MosaicPlayers,
    teacher: nn.Module,
    images: Tensor,
    classes: Sequence[str],
) -> list[Picked]:
    """Give images the teacher's labels."""
    pixels = players.denormalise(images.float()).clamp(0, 1)
    pixels = pixels.mul(255).round().byte().permute(0, 2, 3, 1).cpu()
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(-1, -1, -1, 3)
    logits = teacher(images)
    if logits.dim() > 2:
        # A class for each pixel.
        return [Picked(image.numpy()) for image in pixels]
    score, label = logits.float().log_softmax(dim=1).max(dim=1)
    return [
        Picked(image.numpy(), class_name(classes, index), -value)
        for image, index, value in zip(
            pixels, label.tolist(), score.tolist(), strict=True
        )
    ]
