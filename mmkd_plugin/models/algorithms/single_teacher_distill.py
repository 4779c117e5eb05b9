"""One frozen teacher, one student."""

import os
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.structures import BatchSamples
from mmkd_plugin.utils.architecture import build_architecture
from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checkpoint import load_strict, load_weights
from mmkd_plugin.utils.checks import check_label_range
from mmkd_plugin.utils.running_algorithm import announce_algorithm

# Options by which models of other libraries bring their own weights.
_OWN_WEIGHTS = ('pretrained', 'weights', 'checkpoint_path')


def _num_classes(model: nn.Module) -> Optional[int]:
    # mmpretrain's heads, then timm's models.
    for part in ('head', 'model'):
        count = getattr(getattr(model, part, None), 'num_classes', None)
        if isinstance(count, int):
            return count
    return None


def _has_weights(config: dict, model: nn.Module) -> bool:
    # mmpretrain's own classifiers turn `pretrained` into an init_cfg, which
    # takes effect in init_weights() and that is never called for a teacher.
    later = getattr(model, 'init_cfg', None)
    return not later and any(config.get(option) for option in _OWN_WEIGHTS)


@MODELS.register_module()
class SingleTeacherDistill(BaseModel):
    """Offline distillation from one teacher into one student.

    The teacher is frozen: always in eval mode as a whole, run without
    gradients and without its head's loss. It is no submodule, so neither
    optimizer nor DDP nor checkpoints nor weight initialisation see it;
    ``.to()`` moves it along.

    Args:
        student (dict or nn.Module): Config of the student, a model with
            mmpretrain's ``forward(inputs, data_samples, mode)``, or
            ``dict(cfg_path='mmpretrain::...')``. MMRazor's
            ``architecture``.
        teacher (dict or nn.Module): Config of the teacher, likewise.
        distiller (dict): Config of the distiller.
        teacher_ckpt (str, optional): Checkpoint of the teacher, loaded
            strictly. Not needed for a built module, nor for timm's and
            torchvision's models that bring their weights.
        student_ckpt (str, optional): Checkpoint that the student starts
            from, loaded strictly. Defaults to None.
        calculate_student_loss (bool): Whether the student's own loss on the
            labels is added. Needs labeled images. Defaults to True, as in
            MMRazor.
        channels_last (bool): Whether both models run in channels-last
            memory, which is faster for convolutions on most devices.
            Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor, with
            the teacher's statistics. Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a checkpoint is missing or does not fit, if teacher
            and student have different numbers of classes, if the teacher's own
            preprocessor has other statistics than ``data_preprocessor``, or
            if a recorder's source does not exist.
    """

    def __init__(
        self,
        *,
        student: Union[dict, nn.Module],
        teacher: Union[dict, nn.Module],
        distiller: dict,
        teacher_ckpt: Optional[str] = None,
        student_ckpt: Optional[str] = None,
        calculate_student_loss: bool = True,
        channels_last: bool = False,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.calculate_student_loss = calculate_student_loss
        self.student_ckpt = student_ckpt
        self.student = build_architecture(student)
        frozen = build_architecture(teacher)
        self._check_pair(frozen)
        if teacher_ckpt is not None:
            weights = load_weights(os.fspath(teacher_ckpt))
            load_strict(frozen, weights, f'teacher from {teacher_ckpt}')
        elif isinstance(teacher, dict) and not _has_weights(teacher, frozen):
            raise ValueError(
                'teacher_ckpt is missing: an untrained teacher has nothing '
                'to teach. Give the path of its checkpoint'
            )
        self._load_student()
        frozen.requires_grad_(False)
        frozen.train(False)
        # In a tuple, so that nn.Module does not register it.
        self._teacher = (frozen,)
        self.distiller = build_part('distiller', MODELS, distiller)
        self.distiller.prepare_from_student(self.student)
        self.distiller.prepare_from_teacher(frozen)
        if channels_last:
            self.student.to(memory_format=torch.channels_last)
            frozen.to(memory_format=torch.channels_last)
        announce_algorithm(self)

    @property
    def teacher(self) -> nn.Module:
        """nn.Module: The frozen teacher."""
        return self._teacher[0]

    def _check_pair(self, teacher: nn.Module) -> None:
        counts = _num_classes(teacher), _num_classes(self.student)
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(
                f'the teacher has {counts[0]} classes, but the student has '
                f'{counts[1]}'
            )
        theirs = getattr(teacher, 'data_preprocessor', None)
        ours = self.data_preprocessor
        for name in ('mean', 'std'):
            wanted = getattr(theirs, name, None)
            if wanted is None:
                continue
            given = getattr(ours, name, None)
            if (
                given is None
                or given.shape != wanted.shape
                or not torch.allclose(given.float(), wanted.float())
            ):
                shown = None if given is None else given.flatten().tolist()
                raise ValueError(
                    f'the teacher was trained with the {name} '
                    f'{wanted.flatten().tolist()} of its data_preprocessor, '
                    f'but the data_preprocessor here has {shown}'
                )

    def _load_student(self) -> None:
        if self.student_ckpt is not None:
            weights = load_weights(os.fspath(self.student_ckpt))
            load_strict(
                self.student, weights, f'student from {self.student_ckpt}'
            )

    def init_weights(self) -> None:
        """Initialise the student, then load its checkpoint, if any."""
        super().init_weights()
        self._load_student()

    def _apply(self, fn, *args, **kwargs) -> 'SingleTeacherDistill':
        # Called by to(), cuda(), half() and the like.
        self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def train(self, mode: bool = True) -> 'SingleTeacherDistill':
        """Set the mode of the student; the teacher stays in eval mode.

        Args:
            mode (bool): Training or evaluation. Defaults to True.

        Returns:
            SingleTeacherDistill: This model.
        """
        super().train(mode)
        self.teacher.train(False)
        # SyncBN replaces modules after the recorders have hooked them.
        self.distiller.prepare_from_student(self.student)
        return self

    def forward(
        self,
        inputs: Tensor,
        data_samples: Optional[Sequence] = None,
        mode: str = 'tensor',
    ) -> Any:
        """Distil, or run the student.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices. Defaults to None.
            mode (str): ``'loss'`` distils; ``'tensor'`` and ``'predict'`` are
                the student's. Defaults to ``'tensor'``.

        Returns:
            dict[str, Tensor] or what the student returns: With ``'loss'``,
            the loss terms, prefixed with ``student.`` and ``distill.``.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(
        self, inputs: Tensor, data_samples: Optional[Sequence] = None
    ) -> dict[str, Tensor]:
        """Run teacher and student and compute all losses.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices. Defaults to None.

        Returns:
            dict[str, Tensor]: The loss terms.

        Raises:
            ValueError: If labels are needed and not there.
        """
        batch = self._batch_sources(inputs, data_samples)
        losses = {}
        try:
            with torch.no_grad(), self.distiller.record_teacher():
                self.teacher(inputs, mode='tensor')
            with self.distiller.record_student():
                if self.calculate_student_loss:
                    own = self.student(inputs, data_samples, mode='loss')
                    losses.update({f'student.{k}': v for k, v in own.items()})
                else:
                    self.student(inputs, mode='tensor')
            terms = self.distiller.compute_distill_losses(batch)
            losses.update({f'distill.{k}': v for k, v in terms.items()})
        finally:
            self.distiller.clear()
        return losses

    def _batch_sources(
        self, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> dict[str, Tensor]:
        """Collect what the mappings read from the batch."""
        if self.calculate_student_loss and not _is_labeled(data_samples):
            raise ValueError(
                'the batch has no labels for the loss of the student: set '
                'calculate_student_loss=False or use a labeled data set'
            )
        batch = {}
        for name in self.distiller.batch_sources():
            batch[name] = (
                inputs if name == 'inputs' else _stack(data_samples, name)
            )
            if batch[name] is None:
                raise ValueError(
                    f'the batch has no {name}, which loss_forward_mappings '
                    f'reads: the data set must give it to all data samples'
                )
            batch[name] = batch[name].to(inputs.device)
        classes = _num_classes(self.student)
        if 'gt_label' in batch and classes is not None:
            # Before the student's own loss stumbles over them.
            check_label_range(batch['gt_label'], classes)
        return batch


def _is_labeled(samples: Optional[Sequence]) -> bool:
    if isinstance(samples, BatchSamples):
        return samples.gt_label is not None
    # Mixup and its like have scores in the place of labels.
    return bool(samples) and all(
        'gt_label' in sample or 'gt_score' in sample for sample in samples
    )


def _stack(samples: Optional[Sequence], name: str) -> Optional[Tensor]:
    """Get one field of all data samples as a tensor ``(B,)``."""
    if isinstance(samples, BatchSamples):
        return getattr(samples, name)
    if not samples or not all(name in sample for sample in samples):
        return None
    if name == 'gt_label':
        return torch.cat([sample.gt_label for sample in samples])
    return torch.tensor([sample.get(name) for sample in samples])
