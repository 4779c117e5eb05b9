"""Matplotlib figures as arrays, PNG files and inline SVG."""

import html
import io
import re

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from .style import CSS_COLOURS


def render(figure: Figure) -> np.ndarray:
    """Draw a figure.

    Returns:
        np.ndarray: RGB, uint8, shape ``(H, W, 3)``.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def png(image: np.ndarray) -> bytes:
    """Encode an RGB image, uint8, shape ``(H, W, 3)``, as PNG."""
    buffer = io.BytesIO()
    imsave(buffer, image, format='png')
    return buffer.getvalue()


def svg(figure: Figure, label: str) -> str:
    """Make inline SVG of a figure that takes its colours from the page.

    Args:
        figure (Figure): A figure drawn in the colours of this package.
        label (str): What the figure shows, for a screen reader.

    Returns:
        str: An ``<svg>`` element without identifiers of its time of making.
    """
    buffer = io.StringIO()
    # Text that stays text, and the same bytes for the same figure.
    with matplotlib.rc_context(
        {'svg.fonttype': 'none', 'svg.hashsalt': 'mmkd'}
    ):
        figure.savefig(
            buffer,
            format='svg',
            transparent=True,
            metadata=dict(Date=None, Creator=None, Format=None, Type=None),
        )
    text = buffer.getvalue()
    text = text[text.index('<svg') :]
    # An inline style element would hold for the whole page.
    text = re.sub(r'<style.*?</style>|<metadata.*?</metadata>', '', text)
    text = re.sub(r'<!--.*?-->', '', text, flags=re.DOTALL)
    text = re.sub(r'font-family: [^;\"]*', 'font-family: inherit', text)
    for colour, variable in CSS_COLOURS.items():
        text = text.replace(colour, variable)
    text = re.sub(r'\n\s*', '\n', text)
    head = re.search(r'viewBox="[^"]*"', text).group()
    return text.replace(
        text[: text.index('>') + 1],
        f'<svg {head} role="img" aria-label="{html.escape(label)}">',
        1,
    )
