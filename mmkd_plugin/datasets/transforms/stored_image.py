"""What the transforms share that work in pixels of the stored image."""

import math
from collections.abc import Sequence


def image_name(results: dict) -> str:
    """Name the image of a sample in a message: its file, or its number."""
    if results.get('img_path') is not None:
        return str(results['img_path'])
    return f'image {results.get("sample_idx", "without a path")}'


def check_stored(results: dict, transform: str) -> tuple[int, int]:
    """Check that the image of a sample is loaded and not yet changed.

    Boxes, polygons and masks are in pixels of the stored image. After a
    crop, a resize or a flip they would silently mean another place.

    Args:
        results (dict): The sample.
        transform (str): Who asks, for the message.

    Returns:
        tuple[int, int]: Height and width of the image, pixels.

    Raises:
        ValueError: If there is no image or if it was changed before.
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
    return shape


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
