"""The picture of a MosaicKD run at one moment."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmkd_plugin.utils.checks import check_count

from .figures import Picked, montage_figure


def mosaic_figure(
    synthetic: Sequence[Picked],
    real: Sequence[Picked],
    patch_size: int,
    title: str,
    *,
    columns: int = 10,
    seed: int = 0,
) -> Figure:
    """Draw what a generator makes of patches of out-of-domain images.

    From top to bottom: synthetic images and real ones, each under the
    teacher's class and confidence where there are such; then patches of the
    real and of the synthetic images, to see whether they look alike. There
    is one patch an image, and the k-th of both are cut at one position.
    Where a patch is as large as an image, or where one kind of images is
    missing, there are no patches.

    Args:
        synthetic (Sequence[Picked]): Images of the generator.
        real (Sequence[Picked]): Real out-of-domain images, of the same
            height and width.
        patch_size (int): Side of the patches, pixels: the receptive field of
            the discriminator.
        title (str): The moment, for example ``'epoch 3'``.
        columns (int): Images in a row. Defaults to 10.
        seed (int): Decides where the patches are cut. Equal seeds cut at
            equal positions, so that pictures of a run can be compared.
            Defaults to 0.

    Returns:
        Figure: The figure.

    Raises:
        ValueError: If a number is out of its range, or if an image is not
            RGB in uint8 or not of the shape of the others.
    """
    check_count('patch_size', patch_size)
    check_count('columns', columns)
    check_count('seed', seed, least=0)
    _check_images([picked.image for picked in (*synthetic, *real)])
    rows = [
        (_titled(f'Synthetic images, {title}', synthetic), synthetic),
        (_titled('Real out-of-domain images', real), real),
    ]
    pairs = [*zip(real, synthetic, strict=False)]
    if pairs and patch_size < min(real[0].image.shape[:2]):
        size = f'{patch_size}x{patch_size} pixels'
        patches = _cut(pairs, patch_size, seed)
        rows += [
            (f'Patches of the real images, {size}', patches[0]),
            (f'Patches of the synthetic images, {size}, {title}', patches[1]),
        ]
    return montage_figure(rows, columns)


def _check_images(images: Sequence[np.ndarray]) -> None:
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(
                f'images must be uint8 of shape (H, W, 3), but got '
                f'{image.dtype} of shape {image.shape}'
            )
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f'synthetic and real images must have one shape, but got '
            f'{" and ".join(map(str, shapes))}'
        )


def _titled(text: str, images: Sequence[Picked]) -> str:
    has_labels = any(picked.label is not None for picked in images)
    return text + (" (teacher's class, confidence)" if has_labels else '')


def _cut(pairs: Sequence[tuple], size: int, seed: int) -> list:
    """Cut a patch of each image: those of the real ones, of the others."""
    generator = np.random.default_rng(seed)
    height, width = pairs[0][0].image.shape[:2]
    tops = generator.integers(0, height - size + 1, len(pairs))
    lefts = generator.integers(0, width - size + 1, len(pairs))
    return [
        [
            Picked(picked.image[top : top + size, left : left + size])
            for picked, top, left in zip(side, tops, lefts, strict=True)
        ]
        for side in zip(*pairs, strict=True)
    ]
