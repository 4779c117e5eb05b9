"""Pictures of entropies: the cells over an image, its points, the scale."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

# Pixels: images that are larger are made smaller, and the side that all
# pictures come near to, so that lines are thin on small images too.
_LONGEST, _SIDE = 224, 448
# Yellow is low, violet is high; lightness alone tells it as well.
_COLOURS = matplotlib.colormaps['viridis_r']
# Share of the colour; the image shines through with the rest.
_OPACITY = 0.72
# Sixteen shades of grey are enough under a colour, and halve the files.
_GREY_STEP = 16
_MIDDLE_GREY = 128
# Weights of red, green and blue in lightness (ITU-R BT.601).
_LIGHTNESS = (0.299, 0.587, 0.114)


def entropy_limits(entropies: Sequence[Tensor]) -> tuple[float, float]:
    """Find the ends of the colour scale that several pictures share.

    Args:
        entropies (Sequence[Tensor]): In nats, of any shapes, at least one.

    Returns:
        tuple[float, float]: The lowest and the highest value of the scale.
        A hundredth of the cells lie below it: single cells of a very low
        entropy would take the colours from all others.
    """
    values = np.concatenate([e.detach().cpu().ravel() for e in entropies])
    low, high = (float(x) for x in np.quantile(values, (0.01, 1.0)))
    # Where all cells are alike there is nothing to tell apart.
    return (low, high) if high - low > 1e-3 else (low - 0.05, high + 0.05)


def colour_bar(width: int = 256) -> np.ndarray:
    """Paint the colours from low to high, as over an image of middle grey.

    Args:
        width (int): Number of colours. Defaults to 256.

    Returns:
        np.ndarray: RGB, uint8, shape ``(1, width, 3)``.
    """
    grey = np.full((1, width), _MIDDLE_GREY)
    return _paint(np.linspace(0, 1, width)[None], grey)


def foreground_picture(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the outline of the foreground on an image.

    Args:
        image (np.ndarray): RGB, uint8, shape ``(H, W, 3)``.
        mask (np.ndarray): The foreground, bool, shape ``(H, W)``.

    Returns:
        np.ndarray: RGB, uint8. Small images are enlarged without smoothing,
        large ones are made smaller.
    """
    return np.asarray(_outlined(*_fit(image, mask)))


def entropy_picture(
    image: np.ndarray,
    mask: np.ndarray,
    entropy: Tensor,
    foreground_points: Tensor,
    background_points: Tensor,
    limits: tuple[float, float],
) -> np.ndarray:
    """Paint the entropy of the cells of a grid over an image.

    Args:
        image (np.ndarray): RGB, uint8, shape ``(H, W, 3)``.
        mask (np.ndarray): The foreground, which is outlined, bool, shape
            ``(H, W)``.
        entropy (Tensor): In nats, shape ``(h, w)``.
        foreground_points (Tensor): Cells that get a disc, bool, shape
            ``(h, w)``.
        background_points (Tensor): Cells that get a cross, bool, shape
            ``(h, w)``.
        limits (tuple[float, float]): Entropies with the first and the last
            colour; others get the colour of the nearest end.

    Returns:
        np.ndarray: RGB, uint8, of the size of :func:`foreground_picture`.
    """
    image, mask = _fit(image, mask)
    height, width = mask.shape
    rows, columns = entropy.shape
    low, high = limits
    level = (entropy.detach().cpu().double().numpy() - low) / (high - low)
    # The cell of a pixel is that of interpolation with 'nearest'.
    level = level[np.arange(height) * rows // height]
    level = level[:, np.arange(width) * columns // width]
    picture = _outlined(_paint(level, image @ _LIGHTNESS), mask)
    draw = ImageDraw.Draw(picture)
    side = min(height / rows, width / columns)
    for points, mark in (
        (foreground_points, _disc),
        (background_points, _cross),
    ):
        for row, column in points.nonzero().tolist():
            x = (column + 0.5) * width / columns
            y = (row + 0.5) * height / rows
            mark(draw, x, y, side)
    return np.asarray(picture)


def _fit(image: np.ndarray, mask: np.ndarray) -> tuple:
    """Bring an image and its mask near to the side of the pictures."""
    longest = max(mask.shape)
    if longest > _LONGEST:
        height, width = (
            max(1, round(x * _LONGEST / longest)) for x in mask.shape
        )
        size = (width, height)
        image = np.asarray(
            Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
        )
        mask = np.asarray(
            Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        )
    factor = max(1, round(_SIDE / max(mask.shape)))
    return tuple(
        x.repeat(factor, axis=0).repeat(factor, axis=1) for x in (image, mask)
    )


def _paint(level: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Blend the colours of levels, 0 to 1, with shades of grey, 0 to 255."""
    colours = 255 * _COLOURS(np.clip(level, 0, 1))[..., :3]
    grey = (grey.round() // _GREY_STEP + 0.5) * _GREY_STEP
    blend = _OPACITY * colours + (1 - _OPACITY) * grey[..., None]
    return blend.round().astype(np.uint8)


def _outlined(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """Draw a white line between two black ones, seen on any colour."""
    # What is out of the picture is background: a line at the edge as well.
    padded = np.pad(mask, 8)
    outer = ~_shrunk(~padded, 1)
    inner = _shrunk(padded, 1)
    middle = _shrunk(inner, 3)
    innermost = _shrunk(middle, 1)
    outer, inner, middle, innermost = (
        x[8:-8, 8:-8] for x in (outer, inner, middle, innermost)
    )
    picture = image.copy()
    picture[outer & ~innermost] = 0
    picture[inner & ~middle] = 255
    return Image.fromarray(picture)


def _shrunk(mask: np.ndarray, pixels: int) -> np.ndarray:
    shifts = range(-pixels, pixels + 1)
    for axis in (0, 1):
        mask = np.all([np.roll(mask, k, axis) for k in shifts], axis=0)
    return mask


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, side: float) -> None:
    radius = max(1.5, min(0.27 * side, 12))
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill='white', outline='black', width=2)


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, side: float) -> None:
    arm = max(1.5, min(0.24 * side, 11))
    for colour, width, length in (('white', 6, arm + 1.5), ('black', 3, arm)):
        for sign in (-1, 1):
            ends = (
                (x - length, y - sign * length),
                (x + length, y + sign * length),
            )
            draw.line(ends, fill=colour, width=width)
