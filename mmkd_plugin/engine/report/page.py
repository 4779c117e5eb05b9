"""The HTML page of one run or several."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from .confusion import (
    READABLE_CLASSES,
    class_name,
    confusion_svg,
    most_confused,
)
from .figures import line_figure
from .files import (
    CONFIDENCE_PICTURE,
    FIRST_MOSAIC_PICTURE,
    LATEST_MOSAIC_PICTURE,
    MONTAGE_PICTURE,
)
from .rendering import svg
from .style import DASHES, SERIES, STYLE
from .table import run_length, run_row, table_rows, teacher_rows
from .text import format_count, format_score

# Per section, the captions of its pictures.
_PICTURES = {
    'Selection of the training images': {
        CONFIDENCE_PICTURE: 'Confidence of the teacher',
        MONTAGE_PICTURE: 'Chosen and rejected images, with predicted class '
        'and confidence',
    },
    'Synthetic images': {
        FIRST_MOSAIC_PICTURE: 'First picture of the run',
        LATEST_MOSAIC_PICTURE: 'Latest picture of the run',
    },
}


def render_page(
    reports: Sequence[Mapping],
    pictures: Sequence[Mapping[str, bytes]],
) -> str:
    """Write one self-contained page about one run or several.

    Args:
        reports (Sequence[Mapping]): The reports, one per run.
        pictures (Sequence[Mapping[str, bytes]]): Per run, its PNG files by
            their file names; empty where there are none.

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
                run_length(reports[0]),
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
        f'<style>{STYLE}</style>\n</head>\n<body>\n<main>\n'
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
            _pictures_html(shown, level),
            '' if alone else curves,
            _config_html(report),
        ]
    return ''.join(parts) + '</main>\n</body>\n</html>\n'


def _stats_html(report: Mapping) -> str:
    student = run_row(report)
    teachers = [row for row in table_rows([report]) if row.is_teacher]
    stats = []
    if student.last is not None:
        stats.append((format_score(student.last), 'student, last'))
    if student.best is not None:
        stats.append(
            (format_score(student.best), f'student, best ({student.best_at})')
        )
    scores = {t.name: t.last for t in teachers if t.last is not None}
    stats += [(format_score(score), name) for name, score in scores.items()]
    best = 'best teacher' if len(teachers) > 1 else 'teacher'
    if scores and student.last is not None:
        gap = student.last - max(scores.values())
        stats.append((f'{gap:+.2f}', f'student minus {best}'))
    if len(teachers) == 1 and teachers[0].parameters and student.parameters:
        ratio = teachers[0].parameters / student.parameters
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
    for row in table_rows(reports):
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
    teachers = [row.last for row in teacher_rows(reports)]
    reference = teachers[0] if len(teachers) == 1 else None
    figure = line_figure(series, axis, reference, size=(8.4, 3.2))
    keys = [
        key_html(place, report['run_name'])
        for place, report in enumerate(reports)
    ]
    if reference is not None:
        keys.append(key_html(None, f'teacher, {format_score(reference)}'))
    return (
        '<h2>Validation accuracy</h2>\n<figure><figcaption class="key">'
        + ''.join(keys)
        + '</figcaption>'
        + '<div class="wide">'
        + svg(figure, 'Validation accuracy')
        + '</div></figure>\n'
    )


def key_html(place: Optional[int], name: str) -> str:
    if place is None:
        stroke, dashes = 'currentColor', '4 3'
    else:
        stroke = f'var(--s{place % len(SERIES)})'
        style = DASHES[place // len(SERIES) % len(DASHES)]
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
    main = report['student'].get('main')
    of = f' of student {html.escape(main)}' if main else ''
    parts = [
        f'<{level}>Confusion matrix</{level}>\n<p class="note">Last '
        f'validation{of}, {hits:,} of {total:,} images right. Blue: share of '
        f'the class that is right. Orange: errors, the largest is strongest.'
        f'</p>\n'
        f'<figure>{confusion_svg(matrix, classes)}</figure>\n'
    ]
    pairs = most_confused(matrix)
    if len(matrix) > READABLE_CLASSES and pairs:
        lines = ''.join(
            f'<tr><td>{html.escape(class_name(classes, true))}</td>'
            f'<td>{html.escape(class_name(classes, predicted))}</td>'
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


def _pictures_html(pictures: Mapping[str, bytes], level: str) -> str:
    parts = []
    for title, captions in _PICTURES.items():
        shown = [name for name in captions if name in pictures]
        if shown:
            parts.append(f'<{level}>{title}</{level}>\n')
        for name in shown:
            caption = captions[name]
            data = base64.b64encode(pictures[name]).decode()
            parts.append(
                f'<figure class="paper"><figcaption>{caption}</figcaption>'
                f'<img alt="{caption}" src="data:image/png;base64,{data}">'
                f'</figure>\n'
            )
    return ''.join(parts)


def _config_html(report: Mapping) -> str:
    if not report['config']:
        return ''
    name = html.escape(report['config_name'] or 'config')
    return (
        f'<details class="card"><summary>Config <code>{name}</code>'
        f'</summary><pre>{html.escape(report["config"])}</pre></details>\n'
    )
