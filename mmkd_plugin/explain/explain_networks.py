"""From checkpoints and images to knowledge points."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor

from mmkd_plugin.utils.architecture import build_architecture
from mmkd_plugin.utils.checkpoint import load_strict, load_weights

from .cell_entropy import CellEntropy
from .explanation import Explanation, NetworkResult
from .image_set import ImageSet
from .knowledge_points import (
    effective_images,
    foreground_grid,
    knowledge_points,
    learning_speed,
    stability,
)
from .layer_feature import LayerFeature
from .protocol import Protocol
from .training_course import (
    TrainingCourse,
    checkpoint_accuracy,
    different_weights,
    is_same_file,
)

#: In the order in which they are shown.
NETWORKS = ('teacher', 'student', 'baseline')


class _Found(NamedTuple):
    """Entropies of a network at its checkpoints, of all images."""

    epochs: list[int]
    course: Optional[TrainingCourse]
    checkpoints: list[str]
    accuracy: Optional[float]
    feature_length: int
    entropy: Tensor
    reached: Tensor
    has_energy: Tensor


def explain_networks(
    image_set: ImageSet,
    protocol: Protocol,
    *,
    student: Optional[TrainingCourse] = None,
    baseline: Optional[TrainingCourse] = None,
    model: Optional[dict] = None,
    teacher: Optional[Union[str, os.PathLike]] = None,
    teacher_model: Optional[dict] = None,
    set_name: str = 'images',
    memory: int = 1 << 30,
    device: Union[str, torch.device] = 'cpu',
    progress: Callable[[str], None] = lambda line: None,
) -> Explanation:
    """Count the knowledge points of a student and of what it is compared to.

    All networks are asked about the same images: one that has no energy for
    one network at one checkpoint is left out of everything, as is one without
    a cell of the foreground or of the background. ``dropped`` names them.

    Args:
        image_set (ImageSet): Images with foregrounds.
        protocol (Protocol): How points are counted.
        student (TrainingCourse, optional): Checkpoints of the student.
        baseline (TrainingCourse, optional): Those of the same network
            trained without a teacher, from the same initial weights.
        model (dict, optional): Config of student and baseline, a classifier
            with its ``data_preprocessor``. Needed for these.
        teacher (str or PathLike, optional): Checkpoint of the teacher.
        teacher_model (dict, optional): Config of the teacher, likewise.
            Defaults to None, ``model``.
        set_name (str): What the images are called. Defaults to
            ``'images'``.
        memory (int): Budget in bytes, see :func:`cell_energy`. Defaults to
            1 GiB.
        device (str or torch.device): Where the networks run. Defaults to
            ``'cpu'``.
        progress (Callable): Gets a line before every checkpoint. Defaults to
            nothing.

    Returns:
        Explanation: The points, and all that they depend on.

    Raises:
        ValueError: If there is no network, a checkpoint does not fit the
            config, the layer does not exist, a network has no energy for
            all images at a checkpoint, or if no image is left.
    """
    courses = dict(student=student, baseline=baseline)
    courses = {name: c for name, c in courses.items() if c is not None}
    if courses and model is None:
        raise ValueError('student and baseline need the config of their model')
    if not courses and teacher is None:
        raise ValueError('there must be a student, a baseline or a teacher')
    foreground = foreground_grid(
        image_set.masks, protocol.grid, tuple(image_set.masks.shape[1:])
    )

    found = {}
    if teacher is not None:
        path = os.fspath(teacher)
        feature_fn, images = _prepare(
            'teacher',
            model if teacher_model is None else teacher_model,
            protocol.teacher_layer or protocol.layer,
            image_set,
            protocol,
            device,
        )
        steps = iter([('teacher', path, load_weights(path))])
        found['teacher'] = _Found(
            [0],
            None,
            [path],
            _teacher_accuracy(path, list(courses.values())),
            feature_fn(images[:1]).numel(),
            *_entropies(feature_fn, images, protocol, memory, steps, progress),
        )
    for name, course in courses.items():
        feature_fn, images = _prepare(
            name, model, protocol.layer, image_set, protocol, device
        )
        found[name] = _Found(
            course.epochs,
            course,
            [str(checkpoint) for checkpoint in course.checkpoints],
            course.accuracy,
            feature_fn(images[:1]).numel(),
            *_entropies(
                feature_fn,
                images,
                protocol,
                memory,
                _checkpoints(name, course),
                progress,
            ),
        )
    return _evaluate(
        found, image_set, foreground, protocol, set_name, _to_rgb(feature_fn)
    )


def _teacher_accuracy(
    path: str, courses: list[TrainingCourse]
) -> Optional[float]:
    # A run that distils has measured its teacher.
    for course in courses:
        if course.teacher_ckpt and is_same_file(course.teacher_ckpt, path):
            return course.teacher_accuracy
    return checkpoint_accuracy(path)


def check_networks(
    image_set: ImageSet,
    protocol: Protocol,
    *,
    model: Optional[dict] = None,
    teacher_model: Optional[dict] = None,
    memory: int = 1 << 30,
    device: Union[str, torch.device] = 'cpu',
) -> None:
    """Find what :func:`explain_networks` would stumble over, beforehand.

    One image goes through networks that have not been trained.

    Args:
        image_set (ImageSet): Images with foregrounds.
        protocol (Protocol): How points are counted.
        model (dict, optional): Config of student and baseline.
        teacher_model (dict, optional): Config of the teacher.
        memory (int): Budget in bytes. Defaults to 1 GiB.
        device (str or torch.device): Where the networks run. Defaults to
            ``'cpu'``.

    Raises:
        ValueError: As :func:`explain_networks`, but for what depends on
            weights.
    """
    for name, config, layer in (
        ('student', model, protocol.layer),
        ('teacher', teacher_model, protocol.teacher_layer or protocol.layer),
    ):
        if config is None:
            continue
        few = image_set._replace(images=image_set.images[:1])
        feature_fn, images = _prepare(
            name, config, layer, few, protocol, device
        )
        try:
            protocol.check(feature_fn, images, memory)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None


def _prepare(
    name: str,
    model: dict,
    layer: str,
    image_set: ImageSet,
    protocol: Protocol,
    device: Union[str, torch.device],
) -> tuple[LayerFeature, Tensor]:
    """Build a network, and normalise the images as it wants them."""
    network = build_architecture(model)
    preprocessor = getattr(network, 'data_preprocessor', None)
    if getattr(preprocessor, 'mean', None) is None:
        raise ValueError(
            f'{name}: the config of the model must have a data_preprocessor '
            f'with mean and std; without it the network would see other '
            f'images than in training'
        )
    network.to(device)
    try:
        feature_fn = LayerFeature(
            network,
            layer,
            record_idx=protocol.record_idx,
            data_idx=protocol.data_idx,
        )
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from None
    batch = preprocessor(dict(inputs=image_set.images), training=False)
    return feature_fn, batch['inputs']


def _checkpoints(
    name: str, course: TrainingCourse
) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    for place, epoch in enumerate(course.epochs):
        yield (
            f'{name}, epoch {epoch} ({place + 1} of {len(course.epochs)})',
            str(course.checkpoints[place]),
            course.weights(place),
        )


def _entropies(
    feature_fn: LayerFeature,
    images: Tensor,
    protocol: Protocol,
    memory: int,
    checkpoints: Iterator[tuple[str, str, dict[str, Tensor]]],
    progress: Callable[[str], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute entropies and flags at every checkpoint."""
    results: list[CellEntropy] = []
    for title, path, weights in checkpoints:
        progress(title)
        load_strict(feature_fn.model, weights, title, path)
        try:
            result = protocol.entropy(feature_fn, images, memory)
        except ValueError as error:
            raise ValueError(f'{title}: {error}') from None
        if not result.has_energy.any():
            raise ValueError(
                f'{title}: the output of layer {feature_fn.layer!r} does not '
                f'change with the pixels of any of the {len(images)} images. '
                f'Is the layer dead, or are the weights of {path} broken?'
            )
        results.append(result)
    return (
        torch.stack([r.entropy.float().cpu() for r in results]),
        torch.stack([r.reached.cpu() for r in results]),
        torch.stack([r.has_energy.cpu() for r in results]),
    )


def _to_rgb(feature_fn: LayerFeature) -> bool:
    return getattr(feature_fn.model.data_preprocessor, 'to_rgb', False)


def _evaluate(
    found: dict[str, _Found],
    image_set: ImageSet,
    foreground: Tensor,
    protocol: Protocol,
    set_name: str,
    is_bgr: bool,
) -> Explanation:
    has_energy = torch.stack([f.has_energy.all(0) for f in found.values()])
    reasons = {
        'no cell of the foreground': ~foreground.flatten(1).any(1),
        'no cell of the background': foreground.flatten(1).all(1),
        'no energy at some checkpoint': ~has_energy.all(0),
    }
    left = torch.ones(len(foreground), dtype=torch.bool)
    dropped = {}
    for reason, faulty in reasons.items():
        dropped[reason] = _names(image_set, left & faulty)
        left &= ~faulty
    if not left.any():
        counts = ', '.join(f'{len(x)}: {r}' for r, x in dropped.items() if x)
        raise ValueError(
            f'no image is left of {len(foreground)} to count points on '
            f'({counts})'
        )
    released, kept = _released_filter(found, foreground, left, protocol)
    if protocol.released_filter:
        dropped['not effective (released filter)'] = _names(
            image_set, left & ~kept
        )
        left = left & kept
        if not left.any():
            raise ValueError(
                f'released_filter leaves no image of {len(foreground)}: '
                f'{released["passed"]} pass'
            )

    results = {
        name: _result(f, foreground, left, protocol)
        for name, f in found.items()
    }
    images = image_set.images[left]
    if is_bgr:
        images = images.flip(1)
    return Explanation(
        networks={n: results[n] for n in NETWORKS if n in results},
        images=images.permute(0, 2, 3, 1).round().byte().contiguous().numpy(),
        masks=image_set.masks[left].numpy(),
        foreground=foreground[left],
        names=_names(image_set, left),
        labels=[
            image_set.labels[i] for i in left.nonzero().flatten().tolist()
        ],
        protocol=protocol.as_dict(),
        image_set=set_name,
        num_images=len(foreground),
        dropped=dropped,
        released_filter=released,
        notes=_notes(found, results),
        comparable_distances=not _different_distances(found),
    )


def _names(image_set: ImageSet, which: Tensor) -> list[str]:
    return [image_set.names[i] for i in which.nonzero().flatten().tolist()]


def _released_filter(
    found: dict[str, _Found],
    foreground: Tensor,
    left: Tensor,
    protocol: Protocol,
) -> tuple[dict, Optional[Tensor]]:
    """Ask the filter of the released code, whether it is applied or not."""
    report = dict(
        applied=protocol.released_filter,
        from_epoch=protocol.from_epoch,
        limit=protocol.limit,
        passed=None,
        kept=None,
    )
    trained = {n: f for n, f in found.items() if f.course is not None}
    late = {
        n: max(f.epochs) >= protocol.from_epoch for n, f in trained.items()
    }
    if not trained or not all(late.values()):
        if protocol.released_filter:
            early = ', '.join(n for n, is_late in late.items() if not is_late)
            raise ValueError(
                f'released_filter needs checkpoints of epoch '
                f'{protocol.from_epoch} or later (from_epoch), which '
                f'{early or "a teacher alone"} does not have'
            )
        return report, None
    kept = left.clone()
    report['passed'] = {}
    for name, f in trained.items():
        effective = effective_images(
            f.entropy[:, left],
            foreground[left],
            f.epochs,
            protocol.from_epoch,
            protocol.limit,
        )
        report['passed'][name] = int(effective.passed.sum())
        kept[left.nonzero().flatten()] &= effective.kept
    report['kept'] = int(kept.sum())
    return report, kept


def _result(
    f: _Found, foreground: Tensor, left: Tensor, protocol: Protocol
) -> NetworkResult:
    points = knowledge_points(
        f.entropy[:, left], foreground[left], protocol.b, protocol.reference
    )
    course = f.course
    return NetworkResult(
        epochs=list(f.epochs),
        distances=None if course is None else list(course.distances),
        entropy=f.entropy[:, left],
        reached=f.reached[:, left],
        points=points,
        speed=None
        if course is None
        else learning_speed(
            points.n_fg, torch.tensor(course.distances, dtype=torch.float64)
        ),
        stability=None
        if course is None
        else stability(points.foreground_points),
        without_energy=(~f.has_energy).sum(1).tolist(),
        accuracy=f.accuracy,
        checkpoints=f.checkpoints,
        granularity=None if course is None else course.granularity,
        parameters=[] if course is None else list(course.parameters),
        feature_length=f.feature_length,
        probes=protocol.num_probes(f.feature_length),
    )


def _notes(
    found: dict[str, _Found], results: dict[str, NetworkResult]
) -> list[str]:
    """Say what is odd about a comparison."""
    notes = []
    courses = {n: f.course for n, f in found.items() if f.course is not None}
    for name, course in courses.items():
        notes += [f'{name}: {note}' for note in course.notes]
        if course.epochs[0] != 0:
            notes.append(
                f'{name}: there is no checkpoint of epoch 0; what it had '
                f'before training is not known.'
            )
    for name, result in results.items():
        if result.stability is None:
            continue
        blank = int(result.stability.without_points.sum())
        if blank:
            notes.append(
                f'{name}: {blank} of {result.reached.shape[1]} images have no '
                f'point on the foreground at any checkpoint. By the '
                f'definitions they count as learned at once, and as rho = 0.'
            )
    if len(courses) == 2:
        first, second = courses['student'], courses['baseline']
        if first.epochs[0] == second.epochs[0] == 0:
            differing = different_weights(
                first.checkpoints[0], second.checkpoints[0]
            )
            if differing:
                notes.append(
                    f'Student and baseline did not start from the same '
                    f'weights: {len(differing)} tensors differ, the first is '
                    f'{differing[0]}.'
                )
    notes += _different_distances(found)
    return notes


def _different_distances(found: dict[str, _Found]) -> list[str]:
    courses = [f.course for f in found.values() if f.course is not None]
    if len(courses) < 2:
        return []
    student, baseline = courses
    if student.granularity != baseline.granularity:
        return [
            f'The weight distances cannot be compared: that of the student '
            f'is by {student.granularity}, that of the baseline by '
            f'{baseline.granularity}.'
        ]
    if student.parameters != baseline.parameters:
        return [
            'The weight distances cannot be compared: they are of different '
            'parameters.'
        ]
    return []
