"""Teachers and students of some runs in rows, and as a text table."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from .summary import teachers_of
from .text import format_count, format_score


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


def run_length(report: Mapping) -> str:
    """Write how long a run was, in epochs where it counts them."""
    if report['epochs']:
        return f'{report["epochs"]:,} epochs'
    return f'{report["iterations"]:,} iterations'


def _best_at(student: Mapping) -> str:
    if student['best_epoch']:
        return f'epoch {student["best_epoch"]:,}'
    if student['best_iteration']:
        return f'iteration {student["best_iteration"]:,}'
    return ''


def teacher_rows(reports: Sequence[Mapping]) -> list:
    """Make one row per different teacher; those without name are numbered."""
    rows = []
    for report in reports:
        for teacher in teachers_of(report):
            row = _Row(
                name=f'teacher {teacher.get("name", "")}'.rstrip(),
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
    nameless = [row for row in rows if row.name == 'teacher']
    if len(nameless) == 1:
        return rows
    return [
        row._replace(name=f'teacher {nameless.index(row) + 1}')
        if row in nameless
        else row
        for row in rows
    ]


def run_row(report: Mapping, one: Optional[Mapping] = None) -> _Row:
    """Make the row of a run, or of one of its students.

    Args:
        report (Mapping): The report of the run.
        one (Mapping, optional): What the report says about one of several
            students. Defaults to None.

    Returns:
        _Row: The row. That of a run with several students is the best one's.
    """
    student = one or report['student']
    return _Row(
        name=report['run_name'] + (f': {one["name"]}' if one else ''),
        architecture=student['architecture'],
        last=(student['last'] or {}).get(report['metric']),
        best=(student['best'] or {}).get(report['metric']),
        best_at=_best_at(student),
        parameters=student['parameters'],
        length=run_length(report),
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


def table_rows(reports: Sequence[Mapping]) -> list:
    """Make the rows of teachers that are no run here, then of the runs.

    Those of several students that were trained together follow their run.
    """
    students, own = [], []
    for report in reports:
        several = report['student'].get('students', ())
        rows = [run_row(report), *(run_row(report, one) for one in several)]
        students += rows
        if not teachers_of(report):
            own += rows
    teachers = [
        teacher
        for teacher in teacher_rows(reports)
        if not any(_is_same(teacher, row) for row in own)
    ]
    return teachers + students


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
    for row in table_rows(runs):
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
