"""What the transforms share that work in pixels of the stored image."""

import math
from collections.abc import Sequence

import mmengine.fileio as fileio
import numpy as np
from PIL import Image, ImageOps

# The tag of EXIF that says how a viewer should turn an image; 1 is not at all.
ORIENTATION = 0x0112
# Height and width of what is compared.
SMALL = (32, 32)


def image_name(results: dict) -> str:
    """Name the image of a sample in a message: its file, or its number."""
    if results.get('img_path') is not None:
        return str(results['img_path'])
    return f'image {results.get("sample_idx", "without a path")}'


def check_stored(results: dict, transform: str) -> tuple[int, int]:
    """Check that the image of a sample is loaded and not yet changed.

    Boxes, polygons and masks are in pixels of the stored image. After a
    crop, a resize or a flip they would silently mean another place, and so
    they would where the loader has turned the image by its EXIF orientation.

    Args:
        results (dict): The sample.
        transform (str): Who asks, for the message.

    Returns:
        tuple[int, int]: Height and width of the image, pixels.

    Raises:
        ValueError: If there is no image, if it was changed before, or if it
            was turned when it was loaded.
    """
    if results.get('img') is None:
        raise ValueError(
            f"{transform} needs 'img', but the sample has "
            f'{sorted(results)}: put LoadImageFromFile before it'
        )
    shape = results['img'].shape[:2]
    stored = tuple(results.get('ori_shape', shape)[:2])
    if shape != stored or results.get('flip'):
        changed = (
            f'changed from {stored} to {shape} (height, width)'
            if shape != stored
            else 'flipped'
        )
        raise ValueError(
            f'{transform} works in pixels of the stored image, but '
            f'{image_name(results)} was {changed} before: put it directly '
            'after LoadImageFromFile, before crops, resizes and flips'
        )
    path = results.get('img_path')
    if path is not None and fileio.exists(path):
        _check_not_turned(results['img'], path, transform)
    return shape


def _check_not_turned(img: np.ndarray, path: str, transform: str) -> None:
    with fileio.get_local_path(path) as local:
        try:
            file = Image.open(local)
        except OSError:
            # No format of Pillow's, hence no tag that could be read.
            return
        with file:
            # Nothing but the header is read: PngImageFile's own method would
            # decode the image.
            tag = Image.Image.getexif(file).get(ORIENTATION, 1)
            # From TIFF files nobody gives other than turned pixels.
            if (
                tag not in range(2, 9)
                or file.format == 'TIFF'
                or not _is_turned(img, file, tag)
            ):
                return
    raise ValueError(
        f'{transform} works in pixels of the stored image, but {path} was '
        f'turned when it was loaded, by its EXIF orientation {tag}: load it '
        "by dict(type='LoadImageFromFile', "
        "color_type='color_ignore_orientation'). If the foreground or the "
        'box was drawn on the turned image, store that without the tag '
        'instead'
    )


def _is_turned(img: np.ndarray, file: Image.Image, tag: int) -> bool:
    """Tell whether a loaded image is that of the file, or that one turned."""
    if tag >= 5 and file.width != file.height:
        # By a quarter.
        return img.shape[:2] == file.size
    # The loader's options are not known here, hence a look at the pixels: to
    # which of the two is it nearer, both made small?
    file.draft('RGB', SMALL)
    stored = file.convert('RGB').resize(SMALL, Image.Resampling.BOX)
    turned = ImageOps.exif_transpose(stored)
    if img.dtype != np.uint8:
        img = np.clip(img, 0, 255).astype(np.uint8)
    if img.shape[2:] == (1,):
        img = img[..., 0]
    loaded = Image.fromarray(img).convert('RGB')
    loaded = _grey(loaded.resize(SMALL, Image.Resampling.BOX))
    to_turned, to_stored = (
        np.abs(loaded - _grey(image)).sum() for image in (turned, stored)
    )
    return bool(to_turned < to_stored)


def _grey(image: Image.Image) -> np.ndarray:
    # The same for RGB and BGR.
    return np.asarray(image, dtype=float).mean(axis=2)


def box_slices(
    box: Sequence[float], shape: tuple[int, int], where: str
) -> tuple[slice, slice]:
    """Get the pixels whose centres lie inside a box.

    Args:
        box (Sequence[float]): ``[x1, y1, x2, y2]`` in pixels, half open:
            pixel ``i`` lies between ``i`` and ``i + 1``. What is outside of
            the image is cut off.
        shape (tuple[int, int]): Height and width of the image, pixels.
        where (str): Whose box it is, for the message.

    Returns:
        tuple[slice, slice]: Rows and columns. Empty where a box is so thin
        that it passes between two centres.

    Raises:
        ValueError: If it is no box of four finite numbers with ``x1 < x2``
            and ``y1 < y2``, or if no part of it is in the image.
    """
    try:
        x1, y1, x2, y2 = (float(number) for number in box)
        good = all(map(math.isfinite, (x1, y1, x2, y2)))
    except (TypeError, ValueError):
        good = False
    if not good or x2 <= x1 or y2 <= y1:
        raise ValueError(
            f'{where}: a box must be [x1, y1, x2, y2] with x1 < x2 and '
            f'y1 < y2, in pixels, but got {box!r}'
        )
    height, width = shape
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise ValueError(
            f'{where}: the box {box!r} lies outside of the image of '
            f'{height} x {width} pixels (height x width)'
        )
    return _centres(y1, y2, height), _centres(x1, x2, width)


def _centres(start: float, stop: float, size: int) -> slice:
    first = min(max(math.ceil(start - 0.5), 0), size)
    last = min(max(math.ceil(stop - 0.5), 0), size)
    return slice(first, last)
