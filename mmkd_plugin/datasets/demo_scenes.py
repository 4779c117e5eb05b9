"""Digits on textures: images of which it is known where the class is."""

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image

from mmkd_plugin.utils.checks import check_choice, check_count

from .array_images import ArrayImages
from .demo_digits import SPLITS, DemoDigits

# Darker strokes than this are none: magnifying leaves traces around them.
_FAINTEST = 48


def _across(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw coordinates across lines of a random direction, in pixels."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size]
    return np.stack(
        [
            np.cos(angle) * x + np.sin(angle) * y,
            np.cos(angle) * y - np.sin(angle) * x,
        ]
    )


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    along, _ = _across(rng, size)
    phase = 2 * np.pi * (along / rng.uniform(3, 10) + rng.uniform())
    # From soft waves to hard edges.
    return 0.5 + 0.5 * np.tanh(rng.uniform(1, 6) * np.sin(phase))


def _checks(rng: np.random.Generator, size: int) -> np.ndarray:
    fields = _across(rng, size) / rng.uniform(3, 7)
    fields = np.floor(fields + rng.uniform(0, 2, (2, 1, 1)))
    return fields.sum(0) % 2


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    coarse = rng.uniform(size=(int(rng.integers(4, size // 2 + 1)),) * 2)
    image = Image.fromarray(coarse.astype(np.float32))
    smooth = np.asarray(image.resize((size, size), Image.BICUBIC))
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float64)


def _blobs(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    field = np.zeros((size, size))
    for _ in range(int(rng.integers(6, 16))):
        centre = rng.uniform(0, size, 2)
        radius = rng.uniform(1.5, 5)
        inside = np.hypot(y - centre[0], x - centre[1]) < radius
        field[inside] = rng.uniform(0.4, 1)
    return field


_TEXTURES = (_stripes, _checks, _noise, _blobs)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a texture between two colours, ``(size, size, 3)`` in [0, 1]."""
    field = _TEXTURES[rng.integers(len(_TEXTURES))](rng, size)[..., None]
    dark, light = rng.uniform(0, 0.3, 3), rng.uniform(0.3, 0.6, 3)
    if rng.uniform() < 0.5:
        field = 1 - field
    return dark + field * (light - dark)


@DATASETS.register_module()
class DemoScenes(ArrayImages):
    """Handwritten digits on textures that say nothing about them.

    One digit of :class:`DemoDigits` is painted into a square that is half as
    high as the image and lies in a random place on stripes, checks, smooth
    noise or blobs of two random colours. There is no download; the scenes are
    the same for the same options, and of two numbers of scenes the fewer are
    the first of the more.

    The foreground is the whole square, with what is empty of ink in it: the
    hole of a 0 tells a 0 from an 8. Texture, place and colours are drawn
    without knowledge of the digit, so the pixels outside of the square would
    be the same with any other digit: by themselves they say nothing about
    the class. Beside the square they may be of use, as they show where it
    lies and which texture is under the ink.

    Args:
        split (str): ``'train'``, ``'val'`` or ``'test'``, whose digits are
            those of :class:`DemoDigits`, each as often as any other give or
            take one. Defaults to ``'train'``.
        num_images (int): Number of scenes. Defaults to 4000.
        size (int): Height and width, pixels. Defaults to 32.
        seed (int): Seed. Defaults to 0.

    Attributes:
        masks (np.ndarray): The squares into which the digits are painted,
            ``size // 2`` high and wide, bool, shape ``(N, size, size)``.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        split: str = 'train',
        *,
        num_images: int = 4000,
        size: int = 32,
        seed: int = 0,
    ) -> None:
        check_choice('split', split, SPLITS)
        check_count('num_images', num_images)
        check_count('size', size, least=16)
        check_count('seed', seed, least=0)
        digits = DemoDigits(split, size=size // 2)
        # Two generators: the scenery does not know the digit.
        scenery, choice = (
            np.random.default_rng([seed, SPLITS.index(split), stream])
            for stream in range(2)
        )
        rounds = -(-num_images // len(digits))
        chosen = np.concatenate(
            [choice.permutation(len(digits)) for _ in range(rounds)]
        )[:num_images]
        images = np.empty((num_images, size, size, 3), dtype=np.uint8)
        self.masks = np.zeros((num_images, size, size), dtype=bool)
        for i, digit in enumerate(digits.images[chosen, ..., 0]):
            image = _background(scenery, size)
            y, x = scenery.integers(0, size - len(digit) + 1, 2)
            colour = scenery.uniform(0.8, 1) * scenery.uniform(0.9, 1, 3)
            ink = np.where(digit < _FAINTEST, 0, digit / 255)[..., None]
            square = slice(y, y + len(digit)), slice(x, x + len(digit))
            image[square] += ink * (colour - image[square])
            images[i] = np.round(255 * image)
            self.masks[i][square] = True
        super().__init__(
            images, digits.labels[chosen], digits.metainfo['classes']
        )

    def __getitem__(self, index: int) -> dict:
        """Get one scene the way mmpretrain's ``PackInputs`` packs it.

        A batch (``__getitems__``) has no masks, as training needs none.

        Args:
            index (int): Position in the data set.

        Returns:
            dict: ``inputs``, a uint8 tensor of shape ``(3, H, W)``, and
            ``data_samples``, a :class:`mmpretrain.structures.DataSample` with
            ``gt_label`` and ``gt_seg_map``, a uint8 array of shape
            ``(H, W)`` that is 1 in the foreground.
        """
        packed = super().__getitem__(index)
        mask = self.masks[index].astype(np.uint8)
        packed['data_samples'].set_field(mask, 'gt_seg_map')
        return packed
