"""Progressive self-knowledge distillation."""

from collections.abc import Sequence
from typing import Optional

from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import MODELS
from torch import Tensor

from mmkd_plugin.models.stores import PredictionStore
from mmkd_plugin.models.stores.sample_index import checked_index

from .base_distill import stack
from .past_distill import PastDistill


@MODELS.register_module()
class PSKD(PastDistill):
    """PS-KD: the student learns from its own answers of an epoch ago.

    It keeps the last probabilities of every image in a
    :class:`PredictionStore`, the submodule ``store``, and gives those of the
    batch to the mapping as ``from_batch='past_probs'``: in the first epoch,
    in which an image has no past, its one-hot label. After the losses, the
    answers of the step take their place. So a checkpoint has ``4 *
    num_samples * num_classes`` bytes more, and a resumed run goes on as the
    uninterrupted one. On several ranks all have the whole store.

    :class:`PSKDLoss` holds the cross entropy with the labels; the student's
    own is left out::

        model = dict(
            type='PSKD',
            num_samples=50_000,
            calculate_student_loss=False,
            student=...,
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    logits=dict(type='ModuleOutputs', source='head.fc')),
                distill_losses=dict(loss_pskd=dict(
                    type='PSKDLoss',
                    alpha=dict(type='LinearRamp', stop=0.8, end=300))),
                loss_forward_mappings=dict(loss_pskd=dict(
                    preds_S=dict(from_student=True, recorder='logits'),
                    past_probs=dict(from_batch='past_probs'),
                    gt_labels=dict(from_batch='gt_label')))))

    Images are told apart by their ``sample_idx``, which mmengine's
    ``ConcatDataset`` counts anew in each of its parts: ``tools/train.py``
    refuses that one.

    Reference:
        Kim et al., Self-Knowledge Distillation with Progressive Refinement
        of Targets, ICCV 2021, https://arxiv.org/abs/2006.12000. As in the
        published code (https://github.com/lgcnsai/PS-KD-Pytorch), the past
        is what the network in training mode said about another augmented
        view of the image, and it is exchanged between the ranks.

    Args:
        num_samples (int): Size of the training set.
        num_classes (int, optional): Number of classes. Defaults to None:
            that of the student.
        logits (str): Name of the student recorder that records the logits.
            Defaults to ``'logits'``.
        **kwargs: The options of :class:`SelfDistill`.

    Raises:
        ValueError: If a number is wrong, or as for :class:`SelfDistill`.
    """

    past = 'past_probs'

    def __init__(
        self,
        *,
        num_samples: int,
        num_classes: Optional[int] = None,
        logits: str = 'logits',
        **kwargs,
    ) -> None:
        super().__init__(logits=logits, **kwargs)
        self.store = PredictionStore(
            num_samples, self.known_classes(num_classes)
        )

    def check_data(self, dataset: Sequence, loader: dict) -> None:
        """Check that the store has room for the training set.

        Args:
            dataset (Sequence): The training set.
            loader (dict): Config of its loader.

        Raises:
            ValueError: If it is larger, if its images cannot be told apart,
                or if it has no labels.
        """
        super().check_data(dataset, loader)
        while isinstance(dataset, (ClassBalancedDataset, RepeatDataset)):
            dataset = dataset.dataset
        if isinstance(dataset, ConcatDataset):
            raise ValueError(
                'PSKD tells images apart by sample_idx, which ConcatDataset '
                'counts anew in each of its parts: make one data set of them'
            )
        if len(dataset) > len(self.store.seen):
            raise ValueError(
                f'num_samples must be at least {len(dataset)}, the size of '
                f'the training set, but got {len(self.store.seen)}'
            )

    def _on_device(self, index: Tensor) -> Tensor:
        try:
            index = checked_index(index, len(self.store.seen))
        except ValueError as error:
            raise ValueError(
                f'PSKD: {error}; num_samples is the size of the training set'
            ) from None
        return index.to(self.store.probs.device, non_blocking=True)

    def source(
        self, name: str, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> Optional[Tensor]:
        """See :meth:`BaseDistill.source`; ``'past_probs'`` is read here.

        Args:
            name (str): A name that the distiller knows.
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices.

        Returns:
            Tensor or None: The values; None where there are none.

        Raises:
            ValueError: If labels are missing, or if an index is none of the
                store.
        """
        if name != self.past:
            return super().source(name, inputs, data_samples)
        labels = stack(data_samples, 'gt_label')
        if labels is None:
            raise ValueError(
                'the batch has no labels, which stand for the past of images '
                'that have none: PSKD needs a labeled data set'
            )
        index = self._on_device(self.index_of(data_samples))
        return self.store.read(index, labels.to(index.device))

    def remember(
        self, index: Tensor, batch: dict[str, Tensor], logits: Tensor
    ) -> None:
        """Put the answers of the step into the store.

        Args:
            index (Tensor): int64, shape ``(B,)``.
            batch (dict[str, Tensor]): What the mappings read.
            logits (Tensor): Shape ``(B, C)``.
        """
        self.store.write(self._on_device(index), logits)
