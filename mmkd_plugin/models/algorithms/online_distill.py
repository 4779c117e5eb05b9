"""What the schemes that train several students together share."""

import inspect
import os
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseModel, ModuleDict
from torch import Tensor, nn

from mmkd_plugin.models.recorders import ModuleOutputs
from mmkd_plugin.models.schedules.progress import Clock
from mmkd_plugin.models.schedules.scheduled_loss import build_scheduled_loss
from mmkd_plugin.structures import BatchSamples
from mmkd_plugin.utils.architecture import build_architecture, num_classes
from mmkd_plugin.utils.checkpoint import load_strict, load_weights
from mmkd_plugin.utils.checks import (
    check_label_range,
    check_labels,
    check_rows,
    nearest,
)

from .base_distill import is_labeled, stack


class OnlineDistill(BaseModel):
    """Students that learn from the labels and from each other.

    All of them see each batch in one forward pass: either the same images or,
    where the preprocessor gives as many views as there are students, each its
    own. What they learn from each other is the subclass's business, which
    implements :meth:`peer_losses`. Targets are detached, so no student has a
    gradient from the loss of another one, and one backward pass of the sum is
    a backward pass of each.

    The students are submodules, ``students.<name>.*`` in checkpoints. For an
    optimizer each there is ``PerStudentOptimWrapperConstructor``, for the
    validation of all ``StudentsValLoop``. Log terms of the peer loss are not
    logged.

    Args:
        students (dict[str, dict | nn.Module]): Configs of two or more
            students by their names, identifiers such as ``'small'``. Each is
            a model with mmpretrain's ``forward(inputs, data_samples, mode)``,
            or ``dict(cfg_path='mmpretrain::...')``.
        peer_loss (dict): Config of a loss with the arguments ``preds_S`` and
            ``preds_T``, logits of shape ``(N, C)``, and possibly
            ``gt_labels``. Its ``loss_weight`` may be the config of a
            schedule.
        student_ckpts (dict[str, str], optional): Checkpoints that students
            start from, by their names, loaded strictly. Defaults to None.
        main_student (str, optional): The student that answers in the modes
            ``'predict'`` and ``'tensor'``. Defaults to None, the first.
        logits (str or dict[str, str]): Dotted path of the module whose output
            are a student's logits; a dict has one for each student. Defaults
            to ``'head.fc'``.
        channels_last (bool): Whether the students run in channels-last
            memory. Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If there are fewer than two students, if a name is none,
            if students share parameters or have different numbers of
            classes, if a checkpoint is missing or does not fit, or if the
            loss needs what there is not.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, Union[dict, nn.Module]],
        peer_loss: dict,
        student_ckpts: Optional[Mapping[str, str]] = None,
        main_student: Optional[str] = None,
        logits: Union[str, Mapping[str, str]] = 'head.fc',
        channels_last: bool = False,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        _check_names(students)
        # The engine's container: torch's own would keep init_weights from
        # what is in it.
        self.students = ModuleDict(
            {name: build_architecture(s) for name, s in students.items()}
        )
        _check_apart(self.students)
        self.num_classes = _check_classes(self.students)
        self.main_student = main_student or next(iter(self.students))
        self.student_ckpts = dict(student_ckpts or {})
        self._check_known('main_student', [self.main_student])
        self._check_known('student_ckpts', self.student_ckpts)
        self._recorders = self._build_recorders(logits)
        self.attach_recorders()
        self._clock = Clock()
        self.peer_loss, self._peer_schedule = build_scheduled_loss(
            'peer_loss', peer_loss
        )
        self._peer_takes_labels = _takes_labels(self.peer_loss)
        self._load_students()
        self.channels_last = channels_last
        if channels_last:
            self.students.to(memory_format=torch.channels_last)
        self._remove_with_self()

    def _remove_with_self(self) -> None:
        # Students that were given as modules may outlive this.
        weakref.finalize(self, _remove_all, list(self._recorders.values()))

    def __setstate__(self, state: dict) -> None:
        # A copy has hooks of its own.
        super().__setstate__(state)
        self._remove_with_self()

    def _check_known(self, where: str, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.students:
                raise ValueError(
                    f'{where}: there is no student {name!r}; '
                    f'{nearest(str(name), self.students)}'
                )

    def _build_recorders(
        self, logits: Union[str, Mapping[str, str]]
    ) -> dict[str, ModuleOutputs]:
        if isinstance(logits, str):
            logits = dict.fromkeys(self.students, logits)
        self._check_known('logits', logits)
        missing = [name for name in self.students if name not in logits]
        if missing:
            raise ValueError(f'logits has no module for {missing}')
        return {name: ModuleOutputs(logits[name]) for name in self.students}

    def attach_recorders(self) -> None:
        """Attach the recorders of the logits to the students.

        It is called again in every change of the mode, as SyncBN replaces
        modules after the recorders have hooked them.

        Raises:
            ValueError: If a student has no such module.
        """
        for name, recorder in self._recorders.items():
            try:
                recorder.initialize(self.students[name])
            except ValueError as error:
                raise ValueError(f'logits of {name!r}: {error}') from None

    def _load_students(self) -> None:
        for name, path in self.student_ckpts.items():
            load_strict(
                self.students[name],
                load_weights(os.fspath(path)),
                f'student {name} from {path}',
            )

    def init_weights(self) -> None:
        """Initialise the students, then load checkpoints, if any."""
        super().init_weights()
        self._load_students()

    def train(self, mode: bool = True) -> 'OnlineDistill':
        """Set the mode of the students.

        Args:
            mode (bool): Training or evaluation. Defaults to True.

        Returns:
            OnlineDistill: This model.
        """
        super().train(mode)
        self.attach_recorders()
        return self

    def set_progress(
        self, epoch: Optional[int] = None, iteration: Optional[int] = None
    ) -> None:
        """Tell the schedule how far a training without a runner is.

        Args:
            epoch (int, optional): The epoch, counted from 0. Defaults to
                None; then no schedule may go by it.
            iteration (int, optional): The iteration since the start of
                training, likewise. Without both, the schedule follows the
                runner again.

        Raises:
            ValueError: If one is a negative number or no integer.
        """
        self._clock.set(epoch, iteration)

    # A compiled step would take the weight for a constant.
    @torch.compiler.disable
    def _peer_weight(self) -> float:
        if self._peer_schedule is None:
            return 1.0
        return self._peer_schedule(*self._clock.now())

    def forward(
        self,
        inputs: Union[Tensor, Sequence[Tensor]],
        data_samples: Optional[Sequence] = None,
        mode: str = 'tensor',
    ) -> Any:
        """Train the students, or run one of them.

        Args:
            inputs (Tensor or Sequence[Tensor]): Normalised images, shape
                ``(B, C, H, W)``; with ``'loss'`` possibly one such view for
                each student.
            data_samples (Sequence[DataSample], optional): The labels.
                Defaults to None.
            mode (str): ``'loss'`` trains all; ``'tensor'`` and ``'predict'``
                are the main student's. Defaults to ``'tensor'``.

        Returns:
            dict[str, Tensor] or what the student returns: With ``'loss'``,
            the loss terms, ``<name>.loss`` and the like of each student's
            own, ``<name>.distill.loss_peer``, and what the scheme says in
            ``distill.*``.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        student = self.students[self.main_student]
        return student(self.only_view(inputs), data_samples, mode=mode)

    def predict_students(
        self,
        inputs: Union[Tensor, Sequence[Tensor]],
        data_samples: Optional[Sequence] = None,
    ) -> dict[str, list]:
        """Let all students answer.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): The labels.
                Defaults to None.

        Returns:
            dict[str, list[DataSample]]: The answers by the students' names.
        """
        inputs = self.only_view(inputs)
        answers = {}
        for name, student in self.students.items():
            own = data_samples
            if own is not None:
                # Heads write into the samples that they are given.
                own = [sample.new() for sample in data_samples]
            answers[name] = student(inputs, own, mode='predict')
        return answers

    @staticmethod
    def only_view(inputs: Union[Tensor, Sequence[Tensor]]) -> Tensor:
        """Get the images that are not training's.

        Args:
            inputs (Tensor or Sequence[Tensor]): Images, shape
                ``(B, C, H, W)``, or a list of such a batch alone.

        Returns:
            Tensor: The images.

        Raises:
            ValueError: If there are several views.
        """
        if isinstance(inputs, Tensor):
            return inputs
        if len(inputs) != 1:
            raise ValueError(
                f'a student answers to one view of the images, but got '
                f'{len(inputs)}'
            )
        return inputs[0]

    def views(
        self, inputs: Union[Tensor, Sequence[Tensor]]
    ) -> dict[str, Tensor]:
        """Deal out the views of the images.

        Args:
            inputs (Tensor or Sequence[Tensor]): Images of shape
                ``(B, C, H, W)`` for all, or as many views as students.

        Returns:
            dict[str, Tensor]: The images of each student.

        Raises:
            ValueError: If there is another number of views.
        """
        if isinstance(inputs, Tensor):
            inputs = [inputs]
        count = len(self.students)
        if len(inputs) == 1:
            inputs = [inputs[0]] * count
        if len(inputs) != count:
            raise ValueError(
                f'there are {len(inputs)} views of the images for '
                f'{count} students: set views={count} in data_preprocessor, '
                f'or 1 for the same images'
            )
        return dict(zip(self.students, inputs, strict=True))

    def loss(
        self,
        inputs: Union[Tensor, Sequence[Tensor]],
        data_samples: Optional[Sequence] = None,
    ) -> dict[str, Tensor]:
        """Run all students and compute all losses.

        Args:
            inputs (Tensor or Sequence[Tensor]): Normalised images, shape
                ``(B, C, H, W)``, or one such view for each student.
            data_samples (Sequence[DataSample], optional): The labels.
                Defaults to None.

        Returns:
            dict[str, Tensor]: The loss terms.

        Raises:
            ValueError: If labels are not there or do not fit, or if the
                number of views is wrong.
        """
        if not is_labeled(data_samples):
            raise ValueError(
                'the batch has no labels for the losses of the students: use '
                'a labeled data set'
            )
        views = self.views(inputs)
        labels = stack(data_samples, 'gt_label')
        if labels is not None and self.num_classes is not None:
            # Before the students' own losses stumble over them.
            check_label_range(labels, self.num_classes)
        losses, logits = {}, {}
        for name in self.students:
            own, logits[name] = self._run_student(
                name, views[name], data_samples, mode='loss'
            )
            check_rows(logits[name])
            losses.update({f'{name}.{k}': v for k, v in own.items()})
        if self.needs_labels:
            _check_no_scores(data_samples)
            first = next(iter(logits.values()))
            labels = check_labels(labels.to(first.device), first)
        return {**losses, **self.peer_losses(logits, labels)}

    def _run_student(
        self, name: str, *args: Any, **kwargs: Any
    ) -> tuple[Any, Tensor]:
        """Run a student; return what it returns, and its logits."""
        recorder = self._recorders[name]
        try:
            with recorder:
                output = self.students[name](*args, **kwargs)
            return output, recorder.get_record()
        finally:
            # No graph outlives the step.
            recorder.clear()

    def student_logits(
        self, inputs: Union[Tensor, Sequence[Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the logits that the students teach each other by.

        Args:
            inputs (Tensor or Sequence[Tensor]): Normalised images, shape
                ``(B, C, H, W)``, or a list of such a batch alone.

        Returns:
            dict[str, Tensor]: What the modules named by ``logits`` return, as
            a rule of shape ``(B, num_classes)``, by the students' names.
        """
        inputs = self.only_view(inputs)
        return {
            name: self._run_student(name, inputs, mode='tensor')[1]
            for name in self.students
        }

    @property
    def needs_labels(self) -> bool:
        """bool: Whether :meth:`peer_losses` needs class indices."""
        return self._peer_takes_labels

    @abstractmethod
    def peer_losses(
        self, logits: dict[str, Tensor], labels: Optional[Tensor]
    ) -> dict[str, Tensor]:
        """Compute what the students learn from each other.

        Args:
            logits (dict[str, Tensor]): Logits of the students, shape
                ``(B, C)``, with their graphs.
            labels (Tensor, optional): Class indices, shape ``(B,)``; checked,
                and int64 on the logits' device, where they are needed.

        Returns:
            dict[str, Tensor]: Entries of the log; those with ``'loss'`` in
            their names are added up.
        """

    def compare(
        self, preds_S: Tensor, preds_T: Tensor, labels: Optional[Tensor]
    ) -> Tensor:
        """Compute the peer loss, without the weight of a schedule.

        Args:
            preds_S (Tensor): Logits of a student, shape ``(B, C)``.
            preds_T (Tensor): What it is compared with, likewise; no
                gradient flows into it.
            labels (Tensor, optional): Class indices, int64, ``(B,)``.

        Returns:
            Tensor: The loss.
        """
        more = dict(gt_labels=labels) if self._peer_takes_labels else {}
        return self.peer_loss(
            preds_S=preds_S, preds_T=preds_T.detach(), **more
        )


def _check_names(students: Any) -> None:
    if not isinstance(students, Mapping) or len(students) < 2:
        raise ValueError(
            f'students must be a dict of two or more configs by their '
            f'names, but got {students!r}'
        )
    for name, student in students.items():
        if not isinstance(student, (dict, nn.Module)):
            raise ValueError(
                f'the student {name!r} must be a config or a module, but got '
                f'{student!r}'
            )
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f'the name of a student must be an identifier, such as '
                f"'small', but got {name!r}"
            )
        if 'loss' in name:
            raise ValueError(
                f'the name of a student must not contain "loss", or mmengine '
                f'adds up all of its log entries, but got {name!r}'
            )
        if hasattr(ModuleDict(), name):
            raise ValueError(
                f'a student cannot be called {name!r}, as PyTorch has use for '
                f'that; students must be a dict of configs by their names'
            )


def _check_apart(students: ModuleDict) -> None:
    owners: dict[nn.Parameter, str] = {}
    for name, student in students.items():
        for parameter in student.parameters():
            other = owners.setdefault(parameter, name)
            if other != name:
                raise ValueError(
                    f'the students {other!r} and {name!r} share parameters: '
                    f'build each on its own'
                )


def _check_classes(students: ModuleDict) -> Optional[int]:
    counts = {name: num_classes(s) for name, s in students.items()}
    known = {name: c for name, c in counts.items() if c is not None}
    if len(set(known.values())) > 1:
        raise ValueError(
            f'the students must have the same number of classes, but got '
            f'{known}'
        )
    return next(iter(known.values()), None)


def _takes_labels(loss: nn.Module) -> bool:
    """Check the arguments of a loss; tell whether labels are among them."""
    parameters = inspect.signature(loss.forward).parameters
    given = ('preds_S', 'preds_T', 'gt_labels')
    kinds = inspect.Parameter
    needed = [
        *(
            name
            for name, p in parameters.items()
            if p.default is kinds.empty
            and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        ),
        *getattr(loss, 'required_arguments', ()),
    ]
    missing = [name for name in given[:2] if name not in parameters]
    foreign = [name for name in needed if name not in given]
    if missing or foreign:
        raise ValueError(
            f'peer_loss: {type(loss).__name__} takes {list(parameters)}, but '
            f'a peer loss must take preds_S and preds_T, and nothing else '
            f'but gt_labels'
        )
    return 'gt_labels' in parameters


def _check_no_scores(samples: Sequence) -> None:
    if not isinstance(samples, BatchSamples) and any(
        'gt_score' in sample for sample in samples
    ):
        raise ValueError(
            'one class an image is needed, but the images have scores '
            '(gt_score): leave out batch_augments and to_onehot'
        )


def _remove_all(recorders: list[ModuleOutputs]) -> None:
    for recorder in recorders:
        recorder.remove()
