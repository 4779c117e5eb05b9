"""An image file of any kind as a small square of RGB pixels."""

import warnings
from typing import Optional

import numpy as np
from PIL import Image

FITS = ('stretch', 'crop')
EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(path: str, size: int, fit: str = 'stretch') -> np.ndarray:
    """Read an image as a small square one.

    * Of an animation the first frame is taken.
    * Where the source is transparent the result is black, by compositing.
    * 16 bits a channel are reduced to the upper 8.
    * Pixels are averaged (Pillow's BOX filter, the one of downsampled
      ImageNet, https://arxiv.org/abs/1707.08819) where both sides shrink to
      a half or less, and interpolated with BICUBIC else. A JPEG file is
      decoded at the lowest resolution that is at least twice ``size``.
    * The EXIF orientation is respected, colour profiles are not.

    Args:
        path (str): The file.
        size (int): Side of the result, in pixels.
        fit (str): ``'stretch'`` squeezes the whole image into the square,
            ``'crop'`` takes its central square. Defaults to 'stretch'.

    Returns:
        np.ndarray: RGB, shape ``(size, size, 3)``, dtype uint8.

    Raises:
        Exception: Any, if the file cannot be decoded. An image with more
            pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` is refused with
            ``PIL.Image.DecompressionBombWarning``.
    """
    with warnings.catch_warnings(), open(path, 'rb') as file:
        warnings.simplefilter('ignore')
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        image = Image.open(file)
        image.draft(None, (2 * size, 2 * size))
        image.load()
        # TIFF files are turned upright by load() itself; whether the tag is
        # still there afterwards depends on Pillow's version.
        turn = None if image.format == 'TIFF' else _exif_turn(image)
        image = _to_rgb(image)
        width, height = image.size
        side = min(width, height)
        box = None
        if fit == 'crop':
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        resample = (
            Image.Resampling.BOX
            if side >= 2 * size
            else Image.Resampling.BICUBIC
        )
        image = image.resize((size, size), resample, box=box)
        if turn is not None:
            image = image.transpose(turn)
        return np.asarray(image)


def _exif_turn(image: Image.Image) -> Optional[Image.Transpose]:
    try:
        return UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION))
    except Exception:
        # Pixels that can be read are not lost to a broken EXIF block, and
        # parsing one can raise anything.
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == 'RGB' and 'transparency' not in image.info:
        return image
    if image.mode.startswith('I'):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError('integers of more than 16 bits have no range')
        return Image.fromarray((values >> 8).astype(np.uint8)).convert('RGB')
    if image.mode == 'F':
        raise ValueError('floating-point pixels have no range')
    if 'transparency' in image.info or image.mode in (
        'LA',
        'La',
        'PA',
        'RGBA',
        'RGBa',
    ):
        image = image.convert('RGBA')
        black = Image.new('RGBA', image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert('RGB')
