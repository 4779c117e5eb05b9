"""The report of a run: what goes into it, and back from its file."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

REPORT_VERSION = 1


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
    students: Mapping[str, Mapping] = {},
    teacher: Optional[Mapping] = None,
    teachers: Sequence[Mapping] = (),
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
        student (Mapping): ``architecture`` and ``parameters``; of several
            students the name of the ``main`` one, whose is the confusion
            matrix.
        students (Mapping[str, Mapping]): ``architecture`` and ``parameters``
            of several students that are trained together, by their names.
            Their metrics are those with ``<name>/`` before; those without
            are the best one's.
        teacher (Mapping, optional): The same, and the dict ``metrics``.
        teachers (Sequence[Mapping]): The same and ``name`` of each, where
            there are several.
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
    about = _about(student, validations, metric)
    if students:
        about['main'] = student.get('main')
        about['students'] = [
            dict(_about(one, validations, metric, f'{name}/'), name=name)
            for name, one in students.items()
        ]
    # Reports of runs with one teacher stay as they were.
    several = dict(teachers=[_teacher(t) for t in teachers])
    return dict(
        version=REPORT_VERSION,
        run_name=run_name,
        config_name=config_name,
        trained_on=trained_on,
        metric=metric,
        epochs=epochs,
        iterations=iterations,
        student=about,
        teacher=None if teacher is None else _teacher(teacher),
        **(several if teachers else {}),
        curves=curves,
        confusion=None
        if confusion is None
        else np.asarray(confusion, dtype=np.int64).tolist(),
        classes=[str(c) for c in classes],
        selection=None if selection is None else dict(selection),
        config=config,
    )


def _teacher(teacher: Mapping) -> dict:
    named = dict(name=teacher['name']) if 'name' in teacher else {}
    return dict(
        **named,
        architecture=teacher.get('architecture'),
        parameters=teacher.get('parameters'),
        metrics=_finite_dict(teacher.get('metrics') or {}) or None,
    )


def teachers_of(report: Mapping) -> list[Mapping]:
    """Get the teachers of a run.

    Args:
        report (Mapping): Its report.

    Returns:
        list[Mapping]: One entry for each; where there are several, they have
        a ``name``.
    """
    if report['teacher'] is not None:
        return [report['teacher']]
    return list(report.get('teachers', ()))


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


def _about(
    student: Mapping,
    validations: Sequence[dict],
    metric: str,
    prefix: str = '',
) -> dict:
    """Describe a network and its last and best validation."""
    own = [
        dict(
            entry,
            metrics={
                name.removeprefix(prefix): value
                for name, value in entry['metrics'].items()
                if name.startswith(prefix)
            },
        )
        for entry in validations
    ]
    best = best_validation(own, metric)
    return dict(
        architecture=student.get('architecture'),
        parameters=student.get('parameters'),
        last=_finite_dict(own[-1]['metrics']) if own else None,
        best=_finite_dict(best['metrics']) if best else None,
        best_epoch=best['epoch'] if best else None,
        best_iteration=best['iteration'] if best else None,
    )


def _finite_dict(metrics: Mapping) -> dict:
    return {str(name): finite(value) for name, value in metrics.items()}
