"""Figures of curves and of the selection of images."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from .style import BLUE, DASHES, FAINT, INK, ORANGE, SERIES
from .text import format_confidence, shorten

# Beyond 1 - 1e-12, float64 confidences hold no more information.
_MOST_NINES = 12.0
# Of a montage, inches: the distance of images, the space between them, and
# the heights of a title and of a label of two lines.
_CELL, _GAP, _TITLE, _LABEL = 0.95, 0.08, 0.4, 0.32


class Picked(NamedTuple):
    """One image of a montage.

    Attributes:
        image (np.ndarray): RGB, uint8, shape ``(H, W, 3)``.
        label (str, optional): The class that the teacher predicts. None
            where it predicts none for the image as a whole.
        uncertainty (float, optional): Minus the log of the confidence, in
            nats.
    """

    image: np.ndarray
    label: Optional[str] = None
    uncertainty: Optional[float] = None


def _axes(figure: Figure, xlabel: str, **kwargs):
    axes = figure.add_subplot(**kwargs)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(FAINT)
    axes.tick_params(
        which='both', color=FAINT, labelcolor=INK, labelsize=8, length=3
    )
    axes.grid(True, color=FAINT, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=INK, fontsize=8)
    return axes


def line_figure(
    series: Sequence[tuple],
    xlabel: str,
    reference: Optional[float] = None,
    size: tuple = (3.1, 1.9),
) -> Figure:
    """Draw curves over each other.

    Args:
        series (Sequence[tuple]): Pairs of steps and values; None among the
            values leaves a gap. The colour tells the place in the sequence.
        xlabel (str): What the steps are.
        reference (float, optional): A value for a dashed horizontal line.
            Defaults to None.
        size (tuple): Width and height in inches. Defaults to (3.1, 1.9).

    Returns:
        Figure: The figure.
    """
    figure = Figure(figsize=size, layout='constrained')
    axes = _axes(figure, xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    lowest, highest = math.inf, -math.inf
    for place, (steps, values) in enumerate(series):
        values = np.array([math.nan if v is None else v for v in values])
        seen = values[np.isfinite(values)]
        if not len(seen):
            continue
        lowest, highest = min(lowest, seen.min()), max(highest, seen.max())
        axes.plot(
            steps,
            values,
            color=SERIES[place % len(SERIES)],
            linestyle=DASHES[place // len(SERIES) % len(DASHES)],
            linewidth=1.5,
            # A value between two gaps has no line.
            marker='o' if len(values) <= 40 else None,
            markersize=3,
        )
    if lowest > highest:
        axes.text(
            0.5,
            0.5,
            'no finite value',
            transform=axes.transAxes,
            color=INK,
            ha='center',
        )
    elif lowest > 0 and highest / lowest > 100 and reference is None:
        axes.set_yscale('log')
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        formatter = ScalarFormatter(useOffset=False, useMathText=False)
        formatter.set_powerlimits((-3, 5))
        axes.yaxis.set_major_formatter(formatter)
        axes.yaxis.offsetText.set(color=INK, fontsize=8)
    if reference is not None:
        axes.axhline(
            reference, color=INK, linewidth=1.2, linestyle=(0, (4, 3))
        )
    return figure


def _nines(uncertainty: np.ndarray) -> np.ndarray:
    """Compute -log10(1 - confidence), float64, from minus its log."""
    rest = -np.expm1(-np.asarray(uncertainty, dtype=np.float64))
    return -np.log10(np.maximum(rest, 10.0**-_MOST_NINES))


def _nines_label(nines: int) -> str:
    if nines <= 4:
        return f'{100 - 10.0 ** (2 - nines):.{max(0, nines - 2)}f} %'
    return f'1-1e-{nines}'


def confidence_figure(
    uncertainty: np.ndarray,
    predicted: np.ndarray,
    candidates: np.ndarray,
    indices: np.ndarray,
    delta: float,
    gamma: float,
    num_classes: int,
    note: str = '',
) -> Figure:
    """Draw which confidences the selection takes.

    The axis is -log10(1 - c), so that the saturated end is not one bar: each
    further nine of the confidence c has the same width.

    Args:
        uncertainty (np.ndarray): Minus the log of the teacher's confidences,
            in nats, float64, shape ``(N,)``.
        predicted (np.ndarray): Predicted classes, int64, shape ``(N,)``.
        candidates (np.ndarray): Which images are over the threshold, bool,
            shape ``(N,)``.
        indices (np.ndarray): The images trained on, int64, shape ``(n,)``.
        delta (float): The threshold, a confidence.
        gamma (float): The hyper-parameter that delta follows from.
        num_classes (int): Number of classes.
        note (str): A remark for the title. Defaults to ''.

    Returns:
        Figure: Above the confidences, below the number of chosen images per
        predicted class.
    """
    figure = Figure(figsize=(8.0, 5.6), dpi=120, layout='constrained')
    figure.patch.set_facecolor('white')
    grid = figure.add_gridspec(2, 1, height_ratios=(2.2, 1))
    nines = _nines(uncertainty)
    last = max(1.0, float(nines.max()))
    edges = np.linspace(0.0, last, 61)

    axes = _axes(figure, "teacher's confidence", subplotspec=grid[0])
    axes.hist(nines, edges, color='#9a9a9c', label='all images, |X|')
    if len(indices):
        chosen = nines[indices]
        axes.axvspan(
            chosen.min(), chosen.max(), color=BLUE, alpha=0.12, linewidth=0
        )
        axes.hist(chosen, edges, color=BLUE, label="chosen, |X''|")
    if math.isfinite(delta):
        place = min(last, float(_nines(-math.log(max(delta, 1e-300)))))
        axes.axvline(
            place,
            color=ORANGE,
            linewidth=1.8,
            linestyle=(0, (5, 2)),
            label='delta = '
            + format_confidence(-math.log(max(delta, 1e-300))),
        )
    axes.set_xlim(0.0, last)
    ticks = range(1, int(last) + 1)
    axes.set_xticks(
        [-math.log10(0.5), *ticks], ['50 %', *map(_nines_label, ticks)]
    )
    axes.set_ylabel('images', color=INK, fontsize=8)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    counts = (
        f'|X| = {len(uncertainty):,} images    '
        f"|X'| = {int(np.sum(candidates)):,} over delta    "
        f"|X''| = {len(indices):,} chosen    gamma = {gamma:g}"
    )
    axes.set_title(
        counts + (f'\n{note}' if note else ''),
        color=INK,
        fontsize=10,
        loc='left',
        parse_math=False,
    )

    axes = _axes(figure, 'predicted class', subplotspec=grid[1])
    per_class = np.bincount(predicted[indices], minlength=num_classes)
    axes.bar(np.arange(len(per_class)), per_class, width=0.8, color=BLUE)
    axes.grid(False, axis='x')
    axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    axes.set_xlim(-0.6, len(per_class) - 0.4)
    axes.set_ylabel('chosen images', color=INK, fontsize=8)
    return figure


def montage_figure(rows: Sequence[tuple], columns: int) -> Figure:
    """Draw groups of images, each under its class and confidence.

    Args:
        rows (Sequence[tuple]): Pairs of a title and a list of
            :class:`Picked`. A list that is longer than a row goes on in the
            next one.
        columns (int): Images in a row.

    Returns:
        Figure: The figure.
    """
    lines = []
    for title, images in rows:
        # One height for a whole group, so that its images stand in columns.
        has_labels = any(picked.label is not None for picked in images)
        lines.append((title, _TITLE, []))
        lines += [
            (
                None,
                _CELL + (_LABEL if has_labels else 0.0),
                images[start : start + columns],
            )
            for start in range(0, len(images), columns)
        ]
    width = max(5.2, _CELL * columns + _GAP)
    height = sum(line_height for _, line_height, _ in lines) + _GAP
    figure = Figure(figsize=(width, height), dpi=120)
    figure.patch.set_facecolor('white')
    # One axes whose units are inches: one an image takes ten times as long.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    top = 0.0
    for title, line_height, images in lines:
        top += line_height
        if title is not None:
            axes.text(
                _GAP,
                top,
                title,
                fontsize=10,
                color=INK,
                va='bottom',
                parse_math=False,
            )
        for place, picked in enumerate(images):
            _draw_picked(axes, picked, _CELL * place + _GAP, top)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _draw_picked(axes, picked: Picked, left: float, bottom: float) -> None:
    """Draw an image into the square above a corner, and its label on top."""
    side = _CELL - _GAP
    height, width = picked.image.shape[:2]
    height, width = (side * x / max(height, width) for x in (height, width))
    left += (side - width) / 2
    axes.imshow(
        picked.image,
        # Small images show their pixels, large ones are smoothed.
        interpolation='antialiased',
        extent=(left, left + width, bottom, bottom - height),
        aspect='auto',
    )
    if picked.label is None:
        return
    text = shorten(picked.label, 12)
    if picked.uncertainty is not None:
        text += f'\n{format_confidence(picked.uncertainty)}'
    axes.text(
        left + width / 2,
        bottom - height - _GAP / 2,
        text,
        fontsize=8,
        color=INK,
        ha='center',
        va='bottom',
        parse_math=False,
    )
