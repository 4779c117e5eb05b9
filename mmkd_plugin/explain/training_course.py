"""The course of a training, as WeightDistanceHook and SnapshotHook left it."""

import json
import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor

from mmkd_plugin.engine.report import parse_report
from mmkd_plugin.utils.checkpoint import find_weights, read_checkpoint

_HOOKS = (
    'custom_hooks needs dict(type="WeightDistanceHook") and '
    'dict(type="SnapshotHook") when it is trained'
)


@dataclass(frozen=True)
class TrainingCourse:
    """Checkpoints of a network and how far its weights had gone by then.

    Attributes:
        epochs (list[int]): Of the M checkpoints, increasing; those of a
            second phase go on counting.
        checkpoints (list[Path]): Their files.
        distances (list[float]): Path length of the weights by then, in units
            of the norm of the weights at the very start.
        granularity (str): ``'step'`` or ``'epoch'``, see
            :class:`~mmkd_plugin.engine.hooks.WeightDistanceHook`.
        parameters (list[str]): Names of the parameters that are measured.
        accuracy (float, optional): Top-1 in percent of the last validation,
            where there is a report.
        teacher_ckpt (str, optional): The checkpoint that was distilled from,
            likewise.
        teacher_accuracy (float, optional): Its accuracy, as measured then.
        notes (list[str]): What is odd about the course.
    """

    epochs: list[int]
    checkpoints: list[Path]
    distances: list[float]
    granularity: str
    parameters: list[str]
    accuracy: Optional[float] = None
    teacher_ckpt: Optional[str] = None
    teacher_accuracy: Optional[float] = None
    notes: list[str] = field(default_factory=list)

    def weights(self, index: int) -> dict[str, Tensor]:
        """Read the weights of a checkpoint.

        Args:
            index (int): Its place.

        Returns:
            dict[str, Tensor]: The state dict of the network.
        """
        path = str(self.checkpoints[index])
        return find_weights(read_checkpoint(path), path)


@dataclass(frozen=True)
class _Phase:
    folder: Path
    snapshots: dict[int, Path]
    path_lengths: dict[int, float]
    initial_norm: float
    granularity: str
    parameters: list[str]
    report: Optional[dict]


def read_course(folders: Sequence[Union[str, Path]]) -> TrainingCourse:
    """Read the work directories of a training in one phase or several.

    In a second phase, such as the training of a classifier on features that
    were distilled, epochs and path lengths go on counting, and all is
    measured in the norm of the weights that the first phase started from.
    Its checkpoint of epoch 0 is the end of the phase before, and is left out.

    Args:
        folders (Sequence[str or Path]): The work directories in the order of
            training.

    Returns:
        TrainingCourse: The checkpoints and distances.

    Raises:
        ValueError: If something is missing (all of it in one message), if
            files do not belong to the same run, or if the phases do not
            measure the same distance.
    """
    if not folders:
        raise ValueError('there must be at least one work directory')
    faults: list[str] = []
    phases = []
    for folder in map(Path, folders):
        try:
            phases.append(_read_phase(folder))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError('\n'.join(faults))
    first = phases[0]
    epochs, checkpoints, distances, notes = [], [], [], []
    offset, travelled = 0, 0.0
    for place, phase in enumerate(phases):
        for name in ('granularity', 'parameters'):
            if getattr(phase, name) != getattr(first, name):
                raise ValueError(
                    f'{phase.folder}: WeightDistanceHook has other '
                    f'{name} than in {first.folder}, so that their distances '
                    f'do not add up'
                )
        for epoch, path in phase.snapshots.items():
            if place and not epoch:
                notes += _compare_ends(checkpoints[-1], path)
                continue
            epochs.append(offset + epoch)
            checkpoints.append(path)
            distances.append(
                (travelled + phase.path_lengths[epoch]) / first.initial_norm
            )
        offset += max(phase.path_lengths)
        travelled += phase.path_lengths[max(phase.path_lengths)]
        notes += _about_accuracy(phase)
    distilled = [p.report for p in phases if _accuracy(p.report, 'teacher')]
    teacher = distilled[0] if distilled else None
    return TrainingCourse(
        epochs=epochs,
        checkpoints=checkpoints,
        distances=distances,
        granularity=first.granularity,
        parameters=first.parameters,
        accuracy=_accuracy(phases[-1].report, 'student'),
        teacher_ckpt=_teacher_ckpt(teacher),
        teacher_accuracy=_accuracy(teacher, 'teacher'),
        notes=notes,
    )


def _read_phase(folder: Path) -> _Phase:
    if not folder.is_dir():
        raise ValueError(f'{folder}: there is no such work directory')
    distance_file = folder / 'weight_distance.json'
    snapshots = _snapshots(folder)
    missing = []
    if not distance_file.is_file():
        missing.append(distance_file.name)
    if not snapshots:
        missing.append('snapshots/epoch_*.pth')
    if missing:
        raise ValueError(
            f'{folder}: there is no {" and no ".join(missing)}; {_HOOKS}'
        )
    try:
        content = json.loads(distance_file.read_text(encoding='utf-8'))
        entries = content['epochs']
        path_lengths = {e['epoch']: e['path_length'] for e in entries}
        iterations = {e['epoch']: e['iteration'] for e in entries}
        initial_norm = content['initial_norm']
        granularity = content['granularity']
        parameters = content['parameters']
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{distance_file} is not what WeightDistanceHook writes: {error!r}'
        ) from error
    endless = [epoch for epoch, x in path_lengths.items() if x is None]
    if endless:
        raise ValueError(
            f'{distance_file}: the weights are not finite from epoch '
            f'{min(endless)} on'
        )
    for epoch, path in snapshots.items():
        if epoch not in path_lengths:
            raise ValueError(
                f'{path} is of an epoch that {distance_file} does not have '
                f'(it ends at {max(path_lengths)}): is it of another run?'
            )
        meta = _read_meta(path)
        if meta.get('iter', iterations[epoch]) != iterations[epoch]:
            raise ValueError(
                f'{path} was saved after {meta["iter"]} iterations, but '
                f'in {distance_file} epoch {epoch} ends after '
                f'{iterations[epoch]}: they are of different runs'
            )
    return _Phase(
        folder,
        snapshots,
        path_lengths,
        initial_norm,
        granularity,
        parameters,
        _read_report(folder),
    )


def _read_report(folder: Path) -> Optional[dict]:
    try:
        text = (folder / 'report' / 'report.json').read_text(encoding='utf-8')
        return parse_report(text)
    except (OSError, ValueError):
        # The figures do without.
        return None


def checkpoint_accuracy(checkpoint: Union[str, Path]) -> Optional[float]:
    """Find the accuracy of the last checkpoint of a run.

    Args:
        checkpoint (str or Path): ``epoch_N.pth`` in the work directory.

    Returns:
        float or None: Top-1 in percent of the run's last validation, where
        there is a report and the checkpoint is the one it is about.
    """
    checkpoint = Path(checkpoint)
    report = _read_report(checkpoint.parent)
    if report is None or checkpoint.stem != f'epoch_{report["epochs"]}':
        return None
    return _accuracy(report, 'student')


def _read_meta(path: Path) -> dict:
    # Mapped, since the weights are not needed yet.
    try:
        checkpoint = torch.load(
            path, map_location='cpu', mmap=True, weights_only=True
        )
        return checkpoint['meta']
    except (KeyError, RuntimeError, TypeError, pickle.UnpicklingError) as e:
        raise ValueError(
            f'{path} is not what SnapshotHook writes: {str(e).splitlines()[0]}'
        ) from e


def _snapshots(folder: Path) -> dict[int, Path]:
    found = {}
    for path in (folder / 'snapshots').glob('epoch_*.pth'):
        match = re.fullmatch(r'epoch_(\d+)', path.stem)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def _compare_ends(before: Path, after: Path) -> list[str]:
    """Say where a phase starts from other weights than the last one had."""
    differing = different_weights(before, after)
    if not differing:
        return []
    return [
        f'{after} has other weights than {before}, where the phase before '
        f'ended: {len(differing)} tensors differ, the first is {differing[0]}'
    ]


def different_weights(first: Path, second: Path) -> list[str]:
    """Find the tensors in which two checkpoints differ.

    Args:
        first (Path): A checkpoint.
        second (Path): Another one.

    Returns:
        list[str]: Names of tensors that only one has, or with other values;
        counters of batches do not count.
    """
    one, other = (
        find_weights(read_checkpoint(str(path)), str(path))
        for path in (first, second)
    )
    return [
        name
        for name in dict.fromkeys([*one, *other])
        if not name.endswith('num_batches_tracked')
        and (
            name not in one
            or name not in other
            or not torch.equal(one[name], other[name])
        )
    ]


def _teacher_ckpt(report: Optional[dict]) -> Optional[str]:
    pattern = r'teacher_ckpt=([\'"])(.*?)\1'
    match = re.search(pattern, (report or {}).get('config', ''))
    return match and match[2]


def is_same_file(first: Union[str, Path], second: Union[str, Path]) -> bool:
    """Tell whether two paths lead to the same place."""
    return os.path.realpath(first) == os.path.realpath(second)


def _about_accuracy(phase: _Phase) -> list[str]:
    """Say where the accuracy is not that of the last checkpoint."""
    report = phase.report
    if _accuracy(report, 'student') is None:
        return []
    notes = []
    last = max(phase.snapshots)
    measured = report['curves'][f'val/{report["metric"]}']['epoch'][-1]
    if measured != last:
        notes.append(
            f'the accuracy of {phase.folder} was measured after epoch '
            f'{measured}, its last checkpoint is of epoch {last}.'
        )
    if "'EMAHook'" in report['config']:
        notes.append(
            f'{phase.folder} has averaged weights (EMAHook): the accuracy is '
            f'theirs, the points are those of the weights that were trained.'
        )
    return notes


def _accuracy(report: Optional[dict], which: str) -> Optional[float]:
    part = (report or {}).get(which) or {}
    metrics = part.get('last' if which == 'student' else 'metrics') or {}
    return metrics.get(report['metric']) if metrics else None
