"""Printed glyphs, an unlabeled heap that is there without a download."""

import functools
import os
import string

import matplotlib
import numpy as np
from mmengine.registry import DATASETS
from PIL import Image, ImageDraw, ImageFont

from mmkd_plugin.utils.checks import check_flag, check_number

from .array_images import ArrayImages

_OTHERS = string.ascii_letters + '!?&%$#@+=*/<>()[]{}'
GLYPHS = string.digits + _OTHERS
# Fonts with other signs in the place of letters are of no use here.
_FAMILIES = (
    'DejaVuSans',
    'DejaVuSerif',
    'STIXGeneral',
    'cmb10',
    'cmr10',
    'cmss10',
    'cmtt10',
)
_CANVAS = 64


@functools.cache
def _fonts() -> list[str]:
    folder = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf')
    return sorted(
        os.path.join(folder, name)
        for name in os.listdir(folder)
        if name.endswith('.ttf')
        and name.startswith(_FAMILIES)
        and 'Display' not in name
    )


@functools.cache
def _font(path: str, points: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, points)


def _draw(rng: np.random.Generator, size: int, glyphs: str) -> np.ndarray:
    """Draw one of the glyphs, white on black, ``(size, size)``."""
    fonts = _fonts()
    path = fonts[rng.integers(len(fonts))]
    font = _font(path, int(rng.integers(34, 62)))
    glyph = glyphs[rng.integers(len(glyphs))]
    canvas = Image.new('L', (_CANVAS, _CANVAS))
    centre = _CANVAS / 2 + rng.uniform(-5, 5, 2)
    ImageDraw.Draw(canvas).text(
        tuple(centre),
        glyph,
        fill=int(rng.integers(170, 256)),
        font=font,
        anchor='mm',
        stroke_width=int(rng.integers(0, 4)),
    )
    canvas = canvas.rotate(rng.uniform(-25, 25), Image.BILINEAR)
    # By way of 8 pixels, the resolution of the digits.
    return np.asarray(
        canvas.resize((8, 8), Image.BOX).resize((size, size), Image.BICUBIC)
    )


@DATASETS.register_module()
class DemoGlyphs(ArrayImages):
    """Digits, letters and signs in the fonts that matplotlib ships.

    Font, size, weight, angle, place and brightness are random, but the same
    for the same ``seed``. There are no labels.

    Args:
        num_images (int): Number of images. Defaults to 8000.
        size (int): Height and width, pixels. Defaults to 16.
        digits (bool): Whether digits are among the glyphs. Without them the
            images are of another domain than :class:`DemoDigits`. Defaults
            to True.
        seed (int): Seed. Defaults to 0.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        num_images: int = 8000,
        *,
        size: int = 16,
        digits: bool = True,
        seed: int = 0,
    ) -> None:
        check_number('num_images', num_images, least=1)
        check_number('size', size, least=8)
        check_flag('digits', digits)
        glyphs = GLYPHS if digits else _OTHERS
        rng = np.random.default_rng(seed)
        grey = np.stack([_draw(rng, size, glyphs) for _ in range(num_images)])
        super().__init__(np.repeat(grey[..., None], 3, axis=3))
