"""What a person looks at: numbers in; tables, figures and HTML out.

Nothing here knows a runner or trains anything. A *report* is the plain
dictionary that :class:`~mmkd_plugin.engine.hooks.DistillReportHook` builds
with :func:`make_report` and writes as ``report.json``. The figures are made
with matplotlib's object interface: no global backend is chosen, since
mmengine's visualizer may use pyplot in the same process.
"""

import base64
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from mmkd_plugin.utils.atomic import atomic_write

REPORT_VERSION = 1
CONFIDENCE_PICTURE = 'confidence.png'
MONTAGE_PICTURE = 'montage.png'

# The colours of Okabe and Ito, which stay apart in colour-blind eyes.
BLUE, ORANGE, GREEN = '#0072b2', '#d55e00', '#009e73'
_SERIES = (BLUE, ORANGE, GREEN, '#cc79a7', '#e69f00', '#56b4e9')
_DASHES = ('-', (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
# Colours of a figure that is put into a page, where a style sheet that knows
# light from dark takes their place.
_INK, _FAINT = '#1a1a1b', '#c8c8c9'
_CSS_COLOURS = {
    _INK: 'currentColor',
    _FAINT: 'var(--line)',
    **{colour: f'var(--s{i})' for i, colour in enumerate(_SERIES)},
}
# A confusion matrix up to this size has a number in each cell.
_READABLE_CLASSES = 20
# Beyond 1 - 1e-12, float64 confidences hold no more information.
_MOST_NINES = 12.0


class Picked(NamedTuple):
    """One image of a montage.

    Attributes:
        image (np.ndarray): RGB, uint8, shape ``(H, W, 3)``.
        label (str): The class that the teacher predicts.
        uncertainty (float): Minus the log of the confidence, in nats.
    """

    image: np.ndarray
    label: str
    uncertainty: float


# ------------------------------------------------------------------ numbers


def finite(value) -> Optional[float]:
    """Return ``value`` as a float, or None where it is not a finite one."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def thin_curve(
    values: Sequence[float],
    last_step: int,
    interval: int = 1,
    reduce: str = 'mean',
    most_points: int = 1000,
) -> dict:
    """Reduce one value per iteration to one per logging interval.

    Args:
        values (Sequence[float]): One value per iteration, without gaps.
        last_step (int): The iteration of the last value, counted from 1.
            If there are more values than that, the first ones belong to
            another run and are left out.
        interval (int): Iterations per point. A multiple of it is taken
            where there would be too many points. Defaults to 1.
        reduce (str): ``'mean'`` or ``'last'`` value of an interval.
            Defaults to ``'mean'``.
        most_points (int): Upper bound of the number of points. Defaults
            to 1000.

    Returns:
        dict: Lists ``iteration`` (the last one of each interval) and
        ``value``, where None stands for a mean that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[max(0, len(values) - last_step) :]
    width = interval * max(1, math.ceil(len(values) / interval / most_points))
    steps = np.arange(last_step - len(values) + 1, last_step + 1)
    ends = np.flatnonzero(steps % width == 0) + 1
    curve: dict = dict(iteration=[], value=[])
    for part, part_steps in zip(
        np.split(values, ends), np.split(steps, ends), strict=True
    ):
        if len(part):
            value = part[-1] if reduce == 'last' else part.mean()
            curve['iteration'].append(int(part_steps[-1]))
            curve['value'].append(finite(value))
    return curve


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


def best_validation(
    validations: Sequence[dict], metric: str
) -> Optional[dict]:
    """Find the validation with the highest metric; the earliest of equals.

    Args:
        validations (Sequence[dict]): Entries with a dict ``metrics``.
        metric (str): Name of the metric.

    Returns:
        dict or None: The entry, or None where none has a finite value.
    """
    rated = [
        (value, -place)
        for place, entry in enumerate(validations)
        if (value := finite(entry['metrics'].get(metric))) is not None
    ]
    return validations[-max(rated)[1]] if rated else None


def make_report(
    *,
    run_name: str,
    config_name: str = '',
    config: str = '',
    trained_on: str = '',
    metric: str = 'accuracy/top1',
    epochs: int = 0,
    iterations: int = 0,
    curves: Mapping[str, dict] = {},
    validations: Sequence[dict] = (),
    confusion: Optional[Sequence] = None,
    classes: Sequence[str] = (),
    student: Mapping = {},
    teacher: Optional[Mapping] = None,
    selection: Optional[Mapping] = None,
) -> dict:
    """Put together what ``report.json`` holds.

    Args:
        run_name (str): Name of the run.
        config_name (str): File name of the config.
        config (str): Text of the config.
        trained_on (str): What the student saw, in words.
        metric (str): Validation metric that decides what is best.
        epochs (int): Epochs trained; 0 in an iteration-based loop.
        iterations (int): Iterations trained.
        curves (Mapping[str, dict]): What :func:`thin_curve` returns for each
            loss and learning rate, by the name in the log.
        validations (Sequence[dict]): ``iteration``, ``epoch`` and the dict
            ``metrics`` of every validation in the order of time.
        confusion (Sequence, optional): Confusion matrix of the last
            validation, rows are the true classes.
        classes (Sequence[str]): Names of the classes.
        student (Mapping): ``architecture`` and ``parameters``.
        teacher (Mapping, optional): The same, and the dict ``metrics``.
        selection (Mapping, optional): Content of ``selection.json``.

    Returns:
        dict: The report; strings, finite numbers, lists, dicts and None only.
    """
    validations = list(validations)
    curves = {name: dict(curve) for name, curve in curves.items()}
    names = dict.fromkeys(n for v in validations for n in v['metrics'])
    for name in names:
        curves[f'val/{name}'] = dict(
            iteration=[v['iteration'] for v in validations],
            epoch=[v['epoch'] for v in validations],
            value=[finite(v['metrics'].get(name)) for v in validations],
        )
    best = best_validation(validations, metric)
    return dict(
        version=REPORT_VERSION,
        run_name=run_name,
        config_name=config_name,
        trained_on=trained_on,
        metric=metric,
        epochs=epochs,
        iterations=iterations,
        student=dict(
            architecture=student.get('architecture'),
            parameters=student.get('parameters'),
            last=_finite_dict(validations[-1]['metrics'])
            if validations
            else None,
            best=_finite_dict(best['metrics']) if best else None,
            best_epoch=best['epoch'] if best else None,
            best_iteration=best['iteration'] if best else None,
        ),
        teacher=None
        if teacher is None
        else dict(
            architecture=teacher.get('architecture'),
            parameters=teacher.get('parameters'),
            metrics=_finite_dict(teacher.get('metrics') or {}) or None,
        ),
        curves=curves,
        confusion=None
        if confusion is None
        else np.asarray(confusion, dtype=np.int64).tolist(),
        classes=[str(c) for c in classes],
        selection=None if selection is None else dict(selection),
        config=config,
    )


def parse_report(text: str) -> dict:
    """Read what ``report.json`` holds.

    Args:
        text (str): Content of the file.

    Returns:
        dict: The report.

    Raises:
        ValueError: If it is not the JSON of a report, or of one that another
            version has written.
    """
    report = json.loads(text)
    if not isinstance(report, dict) or 'version' not in report:
        raise ValueError('not a report')
    if report['version'] != REPORT_VERSION:
        raise ValueError(
            f'version {report["version"]!r}, but expected {REPORT_VERSION}'
        )
    missing = sorted(make_report(run_name='').keys() - report.keys())
    if missing:
        raise ValueError(f'without {", ".join(missing)}')
    return report


def _finite_dict(metrics: Mapping) -> dict:
    return {str(name): finite(value) for name, value in metrics.items()}


# -------------------------------------------------------------------- table


class _Row(NamedTuple):
    name: str
    architecture: Optional[str]
    last: Optional[float]
    best: Optional[float]
    best_at: str
    parameters: Optional[int]
    length: str
    trained_on: str
    is_teacher: bool


def _length(report: Mapping) -> str:
    if report['epochs']:
        return f'{report["epochs"]:,} epochs'
    return f'{report["iterations"]:,} iterations'


def _best_at(student: Mapping) -> str:
    if student['best_epoch']:
        return f'epoch {student["best_epoch"]:,}'
    if student['best_iteration']:
        return f'iteration {student["best_iteration"]:,}'
    return ''


def _teacher_rows(reports: Sequence[Mapping]) -> list:
    rows = []
    for report in reports:
        teacher = report['teacher']
        if teacher is not None:
            row = _Row(
                name='teacher',
                architecture=teacher['architecture'],
                last=(teacher['metrics'] or {}).get(report['metric']),
                best=None,
                best_at='',
                parameters=teacher['parameters'],
                length='',
                trained_on='',
                is_teacher=True,
            )
            # Runs that share a teacher measure it each on their own.
            if row not in rows:
                rows.append(row)
    if len(rows) == 1:
        return rows
    return [row._replace(name=f'teacher {i}') for i, row in enumerate(rows, 1)]


def _student_row(report: Mapping) -> _Row:
    student = report['student']
    return _Row(
        name=report['run_name'],
        architecture=student['architecture'],
        last=(student['last'] or {}).get(report['metric']),
        best=(student['best'] or {}).get(report['metric']),
        best_at=_best_at(student),
        parameters=student['parameters'],
        length=_length(report),
        trained_on=report['trained_on'],
        is_teacher=False,
    )


def _is_same(teacher: _Row, run: _Row) -> bool:
    """Tell whether a run is the one that the teacher comes from."""
    return (
        (teacher.architecture, teacher.parameters)
        == (run.architecture, run.parameters)
        and teacher.last is not None
        # Checkpoints are of the last or of the best validation.
        and any(
            score is not None and abs(score - teacher.last) < 5e-3
            for score in (run.last, run.best)
        )
    )


def _rows(reports: Sequence[Mapping]) -> list:
    students = [_student_row(report) for report in reports]
    own = [
        row
        for row, report in zip(students, reports, strict=True)
        if report['teacher'] is None
    ]
    teachers = [
        teacher
        for teacher in _teacher_rows(reports)
        if not any(_is_same(teacher, row) for row in own)
    ]
    return teachers + students


def format_count(count: Optional[float]) -> str:
    """Write a number of parameters, for example ``11.2 M``."""
    if count is None:
        return '-'
    for size, unit in ((1e9, ' G'), (1e6, ' M'), (1e3, ' k')):
        if count >= size:
            digits = 2 - min(2, int(math.log10(count / size)))
            return f'{count / size:.{digits}f}{unit}'
    return f'{count:,.0f}'


def format_score(value: Optional[float]) -> str:
    """Write a metric, for example ``77.67``; a dash where there is none."""
    return '-' if value is None else f'{value:.2f}'


def format_confidence(uncertainty: float) -> str:
    """Write a confidence, also where it is closer to 1 than digits show.

    Args:
        uncertainty (float): Minus the log of the confidence, in nats.

    Returns:
        str: For example ``98.2 %``, or ``1-3e-07`` where rounding would
        give 100 %.
    """
    rest = -math.expm1(-uncertainty)
    if rest >= 5e-4:
        return f'{100 * (1 - rest):.1f} %'
    return f'1-{rest:.0e}' if rest > 0 else '1'


def format_table(runs: Sequence[Mapping]) -> str:
    """Write the teachers and students of some runs as a text table.

    Args:
        runs (Sequence[Mapping]): The reports of the runs.

    Returns:
        str: Lines without a newline at the end: a head, a rule, one line per
        teacher that is not one of the runs itself, and one line per run.
    """
    head = ('name', 'top-1 (last)', 'top-1 (best)', 'parameters', 'trained on')
    cells = [head]
    for row in _rows(runs):
        cells.append(
            (
                row.name,
                format_score(row.last),
                format_score(row.best),
                format_count(row.parameters),
                row.trained_on or '-',
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_text_line(line, widths) for line in cells]
    lines.insert(1, '  '.join('-' * width for width in widths))
    return '\n'.join(lines)


def _text_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (1, 2, 3)
    parts = [
        cell.rjust(width) if i in numbers else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return '  '.join(parts).rstrip()


# ------------------------------------------------------------------ figures


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
        figure (Figure): A figure drawn in the colours of this module.
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
    for colour, variable in _CSS_COLOURS.items():
        text = text.replace(colour, variable)
    text = re.sub(r'\n\s*', '\n', text)
    head = re.search(r'viewBox="[^"]*"', text).group()
    return text.replace(
        text[: text.index('>') + 1],
        f'<svg {head} role="img" aria-label="{html.escape(label)}">',
        1,
    )


def _axes(figure: Figure, xlabel: str, **kwargs):
    axes = figure.add_subplot(**kwargs)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(_FAINT)
    axes.tick_params(
        which='both', color=_FAINT, labelcolor=_INK, labelsize=8, length=3
    )
    axes.grid(True, color=_FAINT, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=_INK, fontsize=8)
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
            color=_SERIES[place % len(_SERIES)],
            linestyle=_DASHES[place // len(_SERIES) % len(_DASHES)],
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
            color=_INK,
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
        axes.yaxis.offsetText.set(color=_INK, fontsize=8)
    if reference is not None:
        axes.axhline(
            reference, color=_INK, linewidth=1.2, linestyle=(0, (4, 3))
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
    axes.set_ylabel('images', color=_INK, fontsize=8)
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    counts = (
        f'|X| = {len(uncertainty):,} images    '
        f"|X'| = {int(np.sum(candidates)):,} over delta    "
        f"|X''| = {len(indices):,} chosen    gamma = {gamma:g}"
    )
    axes.set_title(
        counts + (f'\n{note}' if note else ''),
        color=_INK,
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
    axes.set_ylabel('chosen images', color=_INK, fontsize=8)
    return figure


def montage_figure(rows: Sequence[tuple], columns: int) -> Figure:
    """Draw rows of images, each under its class and confidence.

    Args:
        rows (Sequence[tuple]): Pairs of a title and a list of
            :class:`Picked`.
        columns (int): Width of the widest row.

    Returns:
        Figure: The figure.
    """
    heights = [1.6 if images else 0.4 for _, images in rows]
    figure = Figure(
        figsize=(max(4.0, 0.95 * columns), sum(heights)),
        dpi=120,
        layout='constrained',
    )
    figure.patch.set_facecolor('white')
    parts = np.atleast_1d(
        figure.subfigures(len(rows), 1, height_ratios=heights)
    )
    for part, (title, images) in zip(parts, rows, strict=True):
        part.suptitle(
            title,
            fontsize=10,
            x=0.01,
            ha='left',
            color=_INK,
            parse_math=False,
        )
        for place, picked in enumerate(images):
            axes = part.add_subplot(1, columns, place + 1)
            axes.imshow(picked.image, interpolation='nearest')
            axes.set_axis_off()
            axes.set_title(
                f'{_short(picked.label, 12)}\n'
                f'{format_confidence(picked.uncertainty)}',
                fontsize=8,
                color=_INK,
                parse_math=False,
            )
    return figure


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + '…'


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
    if len(matrix) <= _READABLE_CLASSES:
        return _small_confusion(matrix, share, opacity, classes)
    return _large_confusion(matrix, right, opacity)


def _class_name(classes: Sequence[str], index: int) -> str:
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
    names = [_class_name(classes, i) for i in range(len(matrix))]
    short = [_short(name, 14) for name in names]
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


# --------------------------------------------------------------------- page

_STYLE = """
:root {
  color-scheme: light dark;
  --bg: #f6f6f4; --card: #ffffff; --ink: #1c1d20; --soft: #5d6168;
  --line: #dcdcd8; --s0: #0072b2; --s1: #d55e00; --s2: #00875f;
  --s3: #b4588f; --s4: #b97e00; --s5: #3c93c9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #141518; --card: #1d1f23; --ink: #e7e7e4; --soft: #a0a4ab;
    --line: #3a3d43; --s0: #58b0ec; --s1: #ff8b3d; --s2: #35c79b;
    --s3: #e59cc6; --s4: #f0b93a; --s5: #9ad2f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Ubuntu,
    "Noto Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 44px 0 14px; }
h3 { font-size: 1rem; margin: 24px 0 10px; }
.lead, figcaption, .note { color: var(--soft); }
.lead { margin: 0 0 28px; }
.note { font-size: .875rem; max-width: 46em; margin: 6px 0 14px; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; }
.card, figure {
  background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 16px;
}
figure { margin: 0; min-width: 0; }
figcaption { font-size: .875rem; margin-bottom: 8px;
  overflow-wrap: anywhere; }
.grid { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.stats { display: grid; gap: 14px; margin-bottom: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 180px), 1fr)); }
.stats b { display: block; font-size: 1.9rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.stats span { color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; padding: 4px 16px; }
table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .8125rem; font-weight: 600;
  color: var(--soft); }
th, td { padding: 9px 18px 9px 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap;
  padding-right: 28px; }
td small { color: var(--soft); }
td:nth-child(2) { white-space: nowrap; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: currentColor; }
.confusion { margin: 0 auto; font-size: 12px; }
.confusion .axis { font-size: 13px; font-weight: 600; }
.right { fill: var(--s0); } .wrong { fill: var(--s1); }
.frame { stroke: var(--line); }
figure + figure { margin-top: 14px; }
.grid figure { margin: 0; }
.wide { overflow-x: auto; }
.wide svg { min-width: 600px; }
.ends { display: flex; justify-content: space-between; gap: 12px; }
.paper { background: #fff; }
.paper figcaption { color: #5d6168; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; }
.key svg { display: inline-block; width: 26px; height: 8px;
  margin-right: 6px; vertical-align: middle; }
details { margin-top: 14px; }
summary { cursor: pointer; font-weight: 600; padding: 6px 0; }
pre { overflow-x: auto; font: .8125rem/1.5 ui-monospace, Menlo, Consolas,
  monospace; margin: 8px 0 0; }
"""


def render_page(
    reports: Sequence[Mapping],
    pictures: Sequence[Mapping[str, bytes]],
) -> str:
    """Write one self-contained page about one run or several.

    Args:
        reports (Sequence[Mapping]): The reports, one per run.
        pictures (Sequence[Mapping[str, bytes]]): Per run, the PNG files of
            its selection by their file names; empty where there are none.

    Returns:
        str: HTML that loads nothing from elsewhere and runs no script.
    """
    alone = len(reports) == 1
    title = reports[0]['run_name'] if alone else f'{len(reports)} runs'
    if alone:
        lead = ' · '.join(
            html.escape(part)
            for part in (
                reports[0]['config_name'],
                _length(reports[0]),
                reports[0]['trained_on']
                and f'trained on {reports[0]["trained_on"]}',
            )
            if part
        )
    else:
        lead = html.escape(', '.join(r['run_name'] for r in reports))
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, '
        'initial-scale=1">\n'
        f'<title>{html.escape(title)} - distillation report</title>\n'
        f'<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n'
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{lead}</p>\n',
        _stats_html(reports[0]) if alone else '',
        _table_html(reports),
        _accuracy_html(reports),
    ]
    for report, shown in zip(reports, pictures, strict=True):
        if not alone:
            parts.append(f'<h2>{html.escape(report["run_name"])}</h2>\n')
        level = 'h2' if alone else 'h3'
        curves = _curves_html(report, level)
        if curves and not alone:
            curves = (
                f'<details><summary>Training curves</summary>{curves}'
                f'</details>\n'
            )
        parts += [
            curves if alone else '',
            _confusion_html(report, level),
            _selection_html(report, shown, level),
            '' if alone else curves,
            _config_html(report),
        ]
    return ''.join(parts) + '</main>\n</body>\n</html>\n'


def _stats_html(report: Mapping) -> str:
    rows = {row.is_teacher: row for row in _rows([report])}
    student, teacher = rows[False], rows.get(True)
    stats = []
    if student.last is not None:
        stats.append((format_score(student.last), 'student, last'))
    if student.best is not None:
        stats.append(
            (format_score(student.best), f'student, best ({student.best_at})')
        )
    if teacher is not None:
        if teacher.last is not None:
            stats.append((format_score(teacher.last), 'teacher'))
        if teacher.last is not None and student.last is not None:
            gap = student.last - teacher.last
            stats.append((f'{gap:+.2f}', 'student minus teacher'))
        if teacher.parameters and student.parameters:
            ratio = teacher.parameters / student.parameters
            stats.append((f'{ratio:.1f} x', 'fewer parameters'))
    if not stats:
        return ''
    cards = ''.join(
        f'<div class="card"><b>{html.escape(value)}</b>'
        f'<span>{html.escape(label)}</span></div>'
        for value, label in stats
    )
    return f'<div class="stats">{cards}</div>\n'


def _table_html(reports: Sequence[Mapping]) -> str:
    lines = []
    for row in _rows(reports):
        name = html.escape(row.name)
        best = format_score(row.best)
        if row.best_at:
            best += f' <small>{html.escape(row.best_at)}</small>'
        lines.append(
            f'<tr><td>{name if row.is_teacher else f"<b>{name}</b>"}</td>'
            f'<td>{html.escape(row.architecture or "-")}</td>'
            f'<td class="n">{format_score(row.last)}</td>'
            f'<td class="n">{best}</td>'
            f'<td class="n">{format_count(row.parameters)}</td>'
            f'<td class="n">{html.escape(row.length or "-")}</td>'
            f'<td>{html.escape(row.trained_on or "-")}</td></tr>\n'
        )
    metrics = ', '.join(dict.fromkeys(r['metric'] for r in reports))
    return (
        '<div class="card scroll"><table>\n<thead><tr><th>name</th>'
        '<th>network</th><th class="n">top-1 (last)</th>'
        '<th class="n">top-1 (best)</th><th class="n">parameters</th>'
        '<th class="n">length</th><th>trained on</th></tr></thead>\n'
        f'<tbody>\n{"".join(lines)}</tbody></table></div>\n'
        f'<p class="note">Top-1 is the validation metric '
        f'<code>{html.escape(metrics)}</code>. “Best” picks the validation '
        f'after the fact, so compare runs by “last”.</p>\n'
    )


def _accuracy_html(reports: Sequence[Mapping]) -> str:
    curves = [r['curves'].get(f'val/{r["metric"]}') for r in reports]
    if not any(curves):
        return ''
    by_epoch = all(r['epochs'] for r in reports)
    axis = 'epoch' if by_epoch else 'iteration'
    series = [(c[axis], c['value']) if c else ((), ()) for c in curves]
    teachers = [row.last for row in _teacher_rows(reports)]
    reference = teachers[0] if len(teachers) == 1 else None
    figure = line_figure(series, axis, reference, size=(8.4, 3.2))
    keys = [
        _key_html(place, report['run_name'])
        for place, report in enumerate(reports)
    ]
    if reference is not None:
        keys.append(_key_html(None, f'teacher, {format_score(reference)}'))
    return (
        '<h2>Validation accuracy</h2>\n<figure><figcaption class="key">'
        + ''.join(keys)
        + '</figcaption>'
        + '<div class="wide">'
        + svg(figure, 'Validation accuracy')
        + '</div></figure>\n'
    )


def _key_html(place: Optional[int], name: str) -> str:
    if place is None:
        stroke, dashes = 'currentColor', '4 3'
    else:
        stroke = f'var(--s{place % len(_SERIES)})'
        style = _DASHES[place // len(_SERIES) % len(_DASHES)]
        dashes = '' if style == '-' else ' '.join(map(str, style[1]))
    return (
        f'<span><svg viewBox="0 0 26 8"><path d="M0 4h26" fill="none" '
        f'stroke="{stroke}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        f'</svg>{html.escape(name)}</span>'
    )


def _curves_html(report: Mapping, level: str) -> str:
    figures = []
    for name, curve in report['curves'].items():
        shown = f'val/{report["metric"]}'
        if name == shown:
            continue
        figure = line_figure(
            [(curve['iteration'], curve['value'])], 'iteration'
        )
        last = next((v for v in curve['value'][::-1] if v is not None), None)
        value = '' if last is None else f'<b>{last:.4g}</b>'
        figures.append(
            f'<figure><figcaption class="ends">'
            f'<code>{html.escape(name)}</code>{value}</figcaption>'
            f'{svg(figure, name)}</figure>\n'
        )
    if not figures:
        return ''
    return (
        f'<{level}>Curves</{level}>\n<div class="grid">\n'
        f'{"".join(figures)}</div>\n'
    )


def _confusion_html(report: Mapping, level: str) -> str:
    if report['confusion'] is None:
        return ''
    matrix, classes = np.asarray(report['confusion']), report['classes']
    total, hits = int(matrix.sum()), int(np.trace(matrix))
    parts = [
        f'<{level}>Confusion matrix</{level}>\n<p class="note">Last '
        f'validation, {hits:,} of {total:,} images right. Blue: share of the '
        f'class that is right. Orange: errors, the largest is strongest.</p>\n'
        f'<figure>{confusion_svg(matrix, classes)}</figure>\n'
    ]
    pairs = most_confused(matrix)
    if len(matrix) > _READABLE_CLASSES and pairs:
        lines = ''.join(
            f'<tr><td>{html.escape(_class_name(classes, true))}</td>'
            f'<td>{html.escape(_class_name(classes, predicted))}</td>'
            f'<td class="n">{count:,}</td><td class="n">{share:.1%}</td></tr>'
            for true, predicted, count, share in pairs
        )
        parts.append(
            '<h3>Most confused pairs</h3>\n<div class="card scroll"><table>'
            '<thead><tr><th>true</th><th>predicted</th>'
            '<th class="n">images</th><th class="n">of the true class</th>'
            f'</tr></thead><tbody>{lines}</tbody></table></div>\n'
        )
    return ''.join(parts)


def _selection_html(
    report: Mapping, pictures: Mapping[str, bytes], level: str
) -> str:
    captions = {
        CONFIDENCE_PICTURE: 'Confidence of the teacher',
        MONTAGE_PICTURE: 'Chosen and rejected images, with predicted class '
        'and confidence',
    }
    figures = []
    for name, caption in captions.items():
        if name in pictures:
            data = base64.b64encode(pictures[name]).decode()
            figures.append(
                f'<figure class="paper"><figcaption>{caption}</figcaption>'
                f'<img alt="{caption}" src="data:image/png;base64,{data}">'
                f'</figure>\n'
            )
    if not figures:
        return ''
    return (
        f'<{level}>Selection of the training images</{level}>\n'
        f'{"".join(figures)}'
    )


def _config_html(report: Mapping) -> str:
    if not report['config']:
        return ''
    name = html.escape(report['config_name'] or 'config')
    return (
        f'<details class="card"><summary>Config <code>{name}</code>'
        f'</summary><pre>{html.escape(report["config"])}</pre></details>\n'
    )


# -------------------------------------------------------------------- files


def write_file(path: Union[str, Path], content: Union[str, bytes]) -> None:
    """Write a file whole or not at all.

    Args:
        path (str or Path): Where. Missing folders are made.
        content (str or bytes): What; text becomes UTF-8.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(str(path)) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_pictures(run_dir: Union[str, Path]) -> dict:
    """Read the pictures of a run's selection.

    Args:
        run_dir (str or Path): Work directory of the run.

    Returns:
        dict: PNG files by their names; empty where there is no selection.
    """
    folder = Path(run_dir) / 'selection'
    names = (CONFIDENCE_PICTURE, MONTAGE_PICTURE)
    return {
        name: (folder / name).read_bytes()
        for name in names
        if (folder / name).is_file()
    }
