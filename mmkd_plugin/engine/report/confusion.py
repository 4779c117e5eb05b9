"""The confusion matrix: its largest errors, and a picture of it."""

import html
import math
from collections.abc import Sequence

import numpy as np

from .text import shorten

# A confusion matrix up to this size has a number in each cell.
READABLE_CLASSES = 20


def most_confused(matrix: np.ndarray, count: int = 10) -> list:
    """List the pairs of classes that are mistaken most often.

    Args:
        matrix (np.ndarray): Counts, int, shape ``(C, C)``, rows are the true
            classes.
        count (int): Length of the list at most. Defaults to 10.

    Returns:
        list: Tuples of true class, predicted class, number of images and
        their share of the true class' images, most images first.
    """
    matrix = np.asarray(matrix)
    errors = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-errors, axis=None, kind='stable')[:count]
    pairs = [divmod(int(flat), len(matrix)) for flat in order]
    return [
        (t, p, int(errors[t, p]), float(errors[t, p] / matrix[t].sum()))
        for t, p in pairs
        if errors[t, p]
    ]


def confusion_svg(matrix: Sequence, classes: Sequence[str] = ()) -> str:
    """Draw a confusion matrix as inline SVG.

    Right answers are blue, by their share of the row; errors are orange,
    relative to the largest error, so that few errors remain visible.

    Args:
        matrix (Sequence): Counts, shape ``(C, C)``, rows are the true
            classes.
        classes (Sequence[str]): Names of the classes. Defaults to none,
            which means numbers.

    Returns:
        str: An ``<svg>`` element. Up to 20 classes, its cells have numbers,
        names and tool tips.
    """
    matrix = np.asarray(matrix, dtype=np.int64)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)
    largest = max(share[~right].max(initial=0.0), 1e-12)
    # The root lifts single errors out of the background.
    opacity = 0.65 * np.where(right, share, np.sqrt(share / largest))
    if len(matrix) <= READABLE_CLASSES:
        return _small_confusion(matrix, share, opacity, classes)
    return _large_confusion(matrix, right, opacity)


def class_name(classes: Sequence[str], index: int) -> str:
    """Name a class, by its number where it has no name."""
    return str(classes[index]) if index < len(classes) else str(index)


def _svg_head(width: float, height: float, matrix: np.ndarray) -> str:
    return (
        f'<svg class="confusion" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width:g}px" role="img" aria-label="Confusion '
        f'matrix of {len(matrix)} classes">'
    )


def _svg_titles(left: float, top: float, side: float) -> str:
    middle = top + side / 2
    return (
        f'<text class="axis" x="{left + side / 2:g}" y="13" '
        f'text-anchor="middle">predicted</text>'
        f'<text class="axis" x="10" y="{middle:g}" text-anchor="middle" '
        f'transform="rotate(-90 10 {middle:g})">true</text>'
    )


def _small_confusion(
    matrix: np.ndarray,
    share: np.ndarray,
    opacity: np.ndarray,
    classes: Sequence[str],
) -> str:
    names = [class_name(classes, i) for i in range(len(matrix))]
    short = [shorten(name, 14) for name in names]
    space = 8 + 7 * max(map(len, short))
    tilted = max(map(len, short)) > 4
    cell = 40
    left, top = 18 + space, 22 + (0.75 * space + 4 if tilted else 14)
    side = cell * len(matrix)
    parts = [
        _svg_head(
            left + side + (0.6 * space if tilted else 2),
            top + side + 2,
            matrix,
        ),
        _svg_titles(left, top, side),
    ]
    for i, name in enumerate(short):
        centre = (i + 0.5) * cell
        x, y = left + centre, top - 6
        turn = f' transform="rotate(-45 {x:g} {y:g})"' if tilted else ''
        anchor = 'start' if tilted else 'middle'
        parts.append(
            f'<text x="{left - 6:g}" y="{top + centre + 4:g}" '
            f'text-anchor="end">{html.escape(name)}</text>'
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{turn}>'
            f'{html.escape(name)}</text>'
        )
    for true, predicted in np.ndindex(matrix.shape):
        x, y = left + predicted * cell, top + true * cell
        count = matrix[true, predicted]
        kind = 'right' if true == predicted else 'wrong'
        parts.append(
            f'<g><title>true {html.escape(names[true])}, predicted '
            f'{html.escape(names[predicted])}: {count:,} '
            f'({share[true, predicted]:.1%})</title>'
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{cell - 1}" '
            f'height="{cell - 1}" rx="3" '
            f'fill-opacity="{opacity[true, predicted]:.3f}"/>'
        )
        if count:
            parts.append(
                f'<text x="{x + cell / 2:g}" y="{y + cell / 2 + 4:g}" '
                f'text-anchor="middle">{count}</text>'
            )
        parts.append('</g>')
    return ''.join(parts) + '</svg>'


def _large_confusion(
    matrix: np.ndarray, right: np.ndarray, opacity: np.ndarray
) -> str:
    size = len(matrix)
    left, top, side = 52.0, 36.0, 600.0
    step = 10 ** math.floor(math.log10(size / 2))
    if size / step > 12:
        step *= 5 if size / step > 25 else 2
    parts = [
        _svg_head(left + side + 2, top + side + 2, matrix),
        _svg_titles(left, top, side),
    ]
    for tick in range(0, size, step):
        place = (tick + 0.5) / size * side
        parts.append(
            f'<text x="{left - 6:g}" y="{top + place + 4:g}" '
            f'text-anchor="end">{tick}</text>'
            f'<text x="{left + place:g}" y="{top - 6:g}" '
            f'text-anchor="middle">{tick}</text>'
        )
    # One path per shade: a thousand classes have too many cells for one
    # element each.
    parts.append(
        f'<g transform="translate({left:g} {top:g}) '
        f'scale({side / size:.6g})" shape-rendering="crispEdges">'
        f'<rect class="frame" width="{size}" height="{size}" '
        f'fill="none" vector-effect="non-scaling-stroke"/>'
    )
    shades = np.where(matrix > 0, np.ceil(opacity / 0.65 * 12), 0)
    for kind, where in (('right', right), ('wrong', ~right)):
        for shade in np.unique(shades[where]):
            if shade == 0:
                continue
            cells = np.argwhere((shades == shade) & where)
            path = ''.join(f'M{x} {y}h1v1h-1z' for y, x in cells)
            parts.append(
                f'<path class="{kind}" fill-opacity="{shade / 12:.3f}" '
                f'd="{path}"/>'
            )
    return ''.join(parts) + '</g></svg>'
