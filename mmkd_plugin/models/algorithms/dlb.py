"""Self-distillation from the last mini-batch."""

from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.registry import MODELS
from torch import Tensor

from mmkd_plugin.models.stores import LastBatchStore

from .past_distill import PastDistill


@MODELS.register_module()
class DLB(PastDistill):
    """DLB: the student learns from its own answers of the step before.

    With :class:`LastBatchSampler` a batch begins with the images that were
    new in the one before, in a new augmented view, and has as many new ones.
    The student's own loss is the cross entropy of all of them; its logits of
    the new ones are kept in a :class:`LastBatchStore`, the submodule
    ``store``, and are given to the mapping in the next step, as
    ``from_batch='past_logits'`` of shape ``(P, C)`` for :class:`DLBLoss`::

        model = dict(
            type='DLB',
            batch_size=64,
            student=...,
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    logits=dict(type='ModuleOutputs', source='head.fc')),
                distill_losses=dict(loss_dlb=dict(type='DLBLoss')),
                loss_forward_mappings=dict(loss_dlb=dict(
                    preds_S=dict(from_student=True, recorder='logits'),
                    past_logits=dict(from_batch='past_logits')))))
        train_dataloader = dict(
            batch_size=64,
            batch_sampler=dict(type='LastBatchSampler', drop_last=True),
            sampler=dict(type='DefaultSampler', shuffle=True),
            ...)

    Whether a batch begins with the images of the one before is seen from
    their ``sample_idx``. The first batch of an epoch does not: there P is 0,
    and so is the loss. Two of these in a row are an error, as the sampler
    must be another one.

    The last batch is each rank's own, as is the loss. A checkpoint holds
    those of all ranks, so a run that is resumed in the middle of an epoch,
    which iteration-based loops do, goes on as the uninterrupted one.

    Reference:
        Shen et al., Self-Distillation from the Last Mini-Batch for
        Consistency Regularization, CVPR 2022,
        https://arxiv.org/abs/2203.16172. What differs from the published
        code (https://github.com/Meta-knowledge-Lab/DLB): there the images
        seen again have a forward pass of their own, after that of the new
        ones, so that batch normalisation sees either alone; and the last
        batch of an epoch is seen again in the first step of the next one.

    Args:
        batch_size (int): Number of new images of a batch on a rank, the
            ``batch_size`` of the data loader.
        num_classes (int, optional): Number of classes. Defaults to None:
            that of the student.
        logits (str): Name of the student recorder that records the logits.
            Defaults to ``'logits'``.
        **kwargs: The options of :class:`SelfDistill`.

    Raises:
        ValueError: If a number is wrong, or as for :class:`SelfDistill`.
    """

    past = 'past_logits'

    def __init__(
        self,
        *,
        batch_size: int,
        num_classes: Optional[int] = None,
        logits: str = 'logits',
        **kwargs,
    ) -> None:
        super().__init__(logits=logits, **kwargs)
        self.store = LastBatchStore(
            batch_size, self.known_classes(num_classes)
        )
        self._misses = 0

    def check_data(self, dataset: Sequence, loader: dict) -> None:
        """Check that the loader repeats the images of the last batch.

        Args:
            dataset (Sequence): The training set.
            loader (dict): Config of its loader.

        Raises:
            ValueError: If it has no batch sampler, or another batch size.
        """
        super().check_data(dataset, loader)
        if not loader.get('batch_sampler'):
            raise ValueError(
                'DLB needs train_dataloader.batch_sampler=dict('
                "type='LastBatchSampler', drop_last=True), but there is no "
                'batch_sampler'
            )
        size = loader.get('batch_size', self.store.batch_size)
        if size != self.store.batch_size:
            raise ValueError(
                f'batch_size={self.store.batch_size} of the model must be '
                f'that of train_dataloader, the new images of a batch, but '
                f'that is {size}'
            )
        if loader.get('drop_last'):
            raise ValueError(
                'train_dataloader.drop_last must be False beside a '
                'batch_sampler: set drop_last of the batch_sampler'
            )

    def source(
        self, name: str, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> Optional[Tensor]:
        """See :meth:`BaseDistill.source`; ``'past_logits'`` is read here.

        Args:
            name (str): A name that the distiller knows.
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices.

        Returns:
            Tensor or None: The values; None where there are none.

        Raises:
            ValueError: If the batch is none of :class:`LastBatchSampler`.
        """
        if name != self.past:
            return super().source(name, inputs, data_samples)
        past = self.store.read(self.index_of(data_samples))
        if torch.is_grad_enabled():
            self._check_batch(len(inputs), len(past))
        return past

    def _first_new(self, size: int, again: int) -> int:
        """Find where the new images of a batch begin."""
        most = self.store.batch_size
        # The images before are there, but their logits are not, where a run
        # goes on in the middle of an epoch with other ranks.
        return again or (most if size > most else 0)

    def _check_batch(self, size: int, again: int) -> None:
        most = self.store.batch_size
        new = size - self._first_new(size, again)
        if new > most:
            raise ValueError(
                f'the batch has {size} images, {again} of them again, but at '
                f'most batch_size={most} can be new: the batch_size of DLB '
                f'must be that of the train_dataloader'
            )
        missed = not again and len(self.store.own_idx) > 0
        self._misses = self._misses + 1 if missed else 0
        if self._misses > 1:
            raise ValueError(
                'two batches in a row do not begin with the images of the '
                'batch before: DLB needs train_dataloader=dict('
                "batch_sampler=dict(type='LastBatchSampler')), and more "
                'than one batch an epoch'
            )

    def remember(
        self, index: Tensor, batch: dict[str, Tensor], logits: Tensor
    ) -> None:
        """Keep the logits of the new images.

        Args:
            index (Tensor): int64, shape ``(B,)``.
            batch (dict[str, Tensor]): What the mappings read.
            logits (Tensor): Shape ``(B, C)``.
        """
        new = self._first_new(len(index), len(batch[self.past]))
        self.store.write(index[new:], logits[new:])
