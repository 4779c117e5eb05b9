"""What the schemes that train one student share."""

import os
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.structures import BatchSamples
from mmkd_plugin.utils.architecture import build_architecture, num_classes
from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checkpoint import load_strict, load_weights
from mmkd_plugin.utils.checks import check_flag, check_label_range
from mmkd_plugin.utils.running_algorithm import announce_algorithm

_FROM_DATA = 'the data set must give it to all data samples'
# Who gives what from_batch can name.
_GIVERS = dict(
    gt_label=_FROM_DATA,
    sample_idx=_FROM_DATA,
    past_probs='the algorithm PSKD has it',
    past_logits='the algorithm DLB has it',
)


class BaseDistill(BaseModel):
    """A student and the distiller that compares it with something.

    A scheme calls :meth:`set_distiller` at the end of its constructor, and
    says by :meth:`run_teacher` what the student is compared with. Teachers
    that it has put into the tuple ``_frozen`` before are no submodules, so
    neither optimizer nor DDP nor checkpoints see them; they stay in eval mode
    and are moved along.

    Args:
        student (dict or nn.Module): Config of the student, a model with
            mmpretrain's ``forward(inputs, data_samples, mode)``, or
            ``dict(cfg_path='mmpretrain::...')``.
        student_ckpt (str, optional): Checkpoint that the student starts
            from, loaded strictly. Defaults to None.
        calculate_student_loss (bool): Whether the student's own loss on the
            labels is added. Needs labeled images. Defaults to True.
        channels_last (bool): Whether the models run in channels-last
            memory, which is faster for convolutions on most devices.
            Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a checkpoint is missing or does not fit.
    """

    # In a tuple, so that nn.Module does not register them.
    _frozen: tuple[nn.Module, ...] = ()

    def __init__(
        self,
        *,
        student: Union[dict, nn.Module],
        student_ckpt: Optional[str] = None,
        calculate_student_loss: bool = True,
        channels_last: bool = False,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.calculate_student_loss = check_flag(
            'calculate_student_loss', calculate_student_loss
        )
        self.student_ckpt = student_ckpt
        self.channels_last = check_flag('channels_last', channels_last)
        self.student = build_architecture(student)

    def set_distiller(self, config: dict) -> None:
        """Build the distiller and attach it.

        Args:
            config (dict): Config of the distiller.

        Raises:
            ValueError: If the config is wrong, or if a recorder's source
                does not exist.
        """
        self._load_student()
        self.distiller = build_part('distiller', MODELS, config)
        for name, loss in self.distiller.distill_losses.items():
            if self.calculate_student_loss and getattr(
                loss, 'holds_cross_entropy', False
            ):
                raise ValueError(
                    f'{name}: {type(loss).__name__} holds the cross entropy '
                    f'with the labels already: set '
                    f'calculate_student_loss=False, or it counts twice'
                )
        self.attach_recorders()
        if self.channels_last:
            for model in (self.student, *self._frozen):
                model.to(memory_format=torch.channels_last)
        announce_algorithm(self)

    def attach_recorders(self) -> None:
        """Attach the distiller's recorders to the models.

        It is called again in every change of the mode, as SyncBN replaces
        modules after the recorders have hooked them.
        """
        self.distiller.prepare_from_student(self.student)

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

    def train(self, mode: bool = True) -> 'BaseDistill':
        """Set the mode of what is trained.

        Args:
            mode (bool): Training or evaluation. Defaults to True.

        Returns:
            BaseDistill: This model.
        """
        super().train(mode)
        for model in self._frozen:
            model.train(False)
        self.attach_recorders()
        return self

    def _apply(self, fn, *args, **kwargs) -> 'BaseDistill':
        # Called by to(), cuda(), half() and the like.
        for model in self._frozen:
            model._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

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
        """Run the models and compute all losses.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices. Defaults to None.

        Returns:
            dict[str, Tensor]: The loss terms.

        Raises:
            ValueError: If labels are needed and not there.
        """
        batch = self.batch_values(inputs, data_samples)
        losses = {}
        try:
            with torch.no_grad():
                self.run_teacher(inputs)
            own = self.run_student(inputs, data_samples)
            losses.update({f'student.{k}': v for k, v in own.items()})
            terms = self.distiller.compute_distill_losses(batch)
            losses.update({f'distill.{k}': v for k, v in terms.items()})
            self.after_losses(batch)
        finally:
            self.distiller.clear()
        return losses

    def run_teacher(self, inputs: Tensor) -> None:
        """Record what the student is compared with; without gradients.

        Args:
            inputs (Tensor): The images of the batch.
        """

    def run_student(
        self, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> dict[str, Tensor]:
        """Record the student.

        Args:
            inputs (Tensor): The images of the batch.
            data_samples (Sequence[DataSample], optional): Their labels.

        Returns:
            dict[str, Tensor]: Its own loss; empty where that is left out.
        """
        with self.distiller.record_student():
            if self.calculate_student_loss:
                return self.student(inputs, data_samples, mode='loss')
            # It may stand by while a connector learns of the teacher.
            if self.distiller.student_recorders:
                self.student(inputs, mode='tensor')
        return {}

    def after_losses(self, batch: dict[str, Tensor]) -> None:
        """Keep what the next steps need; the records are still there.

        Args:
            batch (dict[str, Tensor]): What :meth:`batch_values` returned.
        """

    def check_data(self, dataset: Sequence, loader: dict) -> None:
        """Check the training data before a run writes anything.

        Args:
            dataset (Sequence): The training set.
            loader (dict): Config of its loader.

        Raises:
            ValueError: If labels are needed and it has none, where a data
                set tells.
        """
        labels_needed = (
            self.calculate_student_loss
            or 'gt_label' in self.distiller.batch_sources()
        )
        if labels_needed and getattr(dataset, 'labels', labels_needed) is None:
            reader = 'loss_forward_mappings reads them'
            if self.calculate_student_loss:
                reader = (
                    "the student's own loss needs them: set "
                    'calculate_student_loss=False'
                )
            raise ValueError(
                f'the training set ({type(dataset).__name__}) has no labels, '
                f'but {reader}'
            )

    def batch_values(
        self, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> dict[str, Tensor]:
        """Collect what the mappings read from the batch.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices.

        Returns:
            dict[str, Tensor]: What the distiller's mappings name by
            ``from_batch``, on the device of the images.

        Raises:
            ValueError: If something is not there, or if labels are out of
                range.
        """
        if self.calculate_student_loss and not is_labeled(data_samples):
            raise ValueError(
                'the batch has no labels for the loss of the student: set '
                'calculate_student_loss=False or use a labeled data set'
            )
        batch = {}
        for name in self.distiller.batch_sources():
            value = self.source(name, inputs, data_samples)
            if value is None:
                raise ValueError(
                    f'the batch has no {name}, which loss_forward_mappings '
                    f'reads: {_GIVERS[name]}'
                )
            batch[name] = value.to(inputs.device)
        classes = num_classes(self.student)
        if 'gt_label' in batch and classes is not None:
            # Before the student's own loss stumbles over them.
            check_label_range(batch['gt_label'], classes)
        return batch

    def source(
        self, name: str, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> Optional[Tensor]:
        """Get what ``from_batch`` names.

        Args:
            name (str): A name that the distiller knows.
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices.

        Returns:
            Tensor or None: The values; None where there are none.
        """
        if name == 'inputs':
            return inputs
        if name in ('gt_label', 'sample_idx'):
            return stack(data_samples, name)
        return None


def is_labeled(samples: Optional[Sequence]) -> bool:
    """Tell whether all data samples have a label, or scores in its place."""
    if isinstance(samples, BatchSamples):
        return samples.gt_label is not None
    # Mixup and its like have scores in the place of labels.
    return bool(samples) and all(
        'gt_label' in sample or 'gt_score' in sample for sample in samples
    )


def stack(samples: Optional[Sequence], name: str) -> Optional[Tensor]:
    """Get one field of all data samples as a tensor.

    Args:
        samples (Sequence[DataSample], optional): The data samples.
        name (str): ``'gt_label'`` or ``'sample_idx'``.

    Returns:
        Tensor or None: int64, shape ``(B,)``; None where a sample has none.
    """
    if isinstance(samples, BatchSamples):
        return getattr(samples, name)
    if not samples or not all(name in sample for sample in samples):
        return None
    if name == 'gt_label':
        return torch.cat([sample.gt_label for sample in samples])
    return torch.tensor([sample.get(name) for sample in samples])
