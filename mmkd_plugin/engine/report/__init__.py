"""What a person looks at: numbers in; tables, figures and HTML out.

Nothing here knows a runner or trains anything. A *report* is the plain
dictionary that :class:`~mmkd_plugin.engine.hooks.DistillReportHook` builds
with :func:`make_report` and writes as ``report.json``. The figures are made
with matplotlib's object interface: no global backend is chosen, since
mmengine's visualizer may use pyplot in the same process.
"""

from .confusion import class_name, confusion_svg, most_confused
from .figures import Picked, confidence_figure, line_figure, montage_figure
from .files import (
    CONFIDENCE_PICTURE,
    FIRST_MOSAIC_PICTURE,
    LATEST_MOSAIC_PICTURE,
    MONTAGE_PICTURE,
    read_pictures,
    write_file,
)
from .mosaic import mosaic_figure
from .page import render_page
from .rendering import png, render, svg
from .style import BLUE, GREEN, ORANGE
from .summary import (
    REPORT_VERSION,
    best_validation,
    finite,
    make_report,
    parse_report,
    thin_curve,
)
from .table import format_table
from .text import format_confidence, format_count, format_score

__all__ = [
    'BLUE',
    'CONFIDENCE_PICTURE',
    'FIRST_MOSAIC_PICTURE',
    'GREEN',
    'LATEST_MOSAIC_PICTURE',
    'MONTAGE_PICTURE',
    'ORANGE',
    'REPORT_VERSION',
    'Picked',
    'best_validation',
    'class_name',
    'confidence_figure',
    'confusion_svg',
    'finite',
    'format_confidence',
    'format_count',
    'format_score',
    'format_table',
    'line_figure',
    'make_report',
    'montage_figure',
    'mosaic_figure',
    'most_confused',
    'parse_report',
    'png',
    'read_pictures',
    'render',
    'render_page',
    'svg',
    'thin_curve',
    'write_file',
]
