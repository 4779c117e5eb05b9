"""Class-wise self-knowledge distillation."""

from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.registry import MODELS
from torch import Tensor

from mmkd_plugin.models.losses.cskd_loss import check_pairs
from mmkd_plugin.structures import BatchSamples

from .base_distill import stack
from .self_distill import SelfDistill

_FIRSTS, _SECONDS = slice(0, None, 2), slice(1, None, 2)


@MODELS.register_module()
class CSKD(SelfDistill):
    """CS-KD: the student is to answer an image as another one of its class.

    With :class:`SameClassPairSampler` a batch is pairs of one class, side by
    side. The student runs on the first images, at the even positions, with
    its own cross entropy on them alone; then on the second ones, without
    gradients, in the mode that it is in. ``student_recorders`` record the
    first run, ``teacher_recorders`` the second, both on the student::

        model = dict(
            type='CSKD',
            student=...,
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    logits=dict(type='ModuleOutputs', source='head.fc')),
                teacher_recorders=dict(
                    logits=dict(type='ModuleOutputs', source='head.fc')),
                distill_losses=dict(loss_cskd=dict(type='CSKDLoss')),
                loss_forward_mappings=dict(loss_cskd=dict(
                    preds_S=dict(from_student=True, recorder='logits'),
                    preds_T=dict(from_student=False, recorder='logits')))))
        train_dataloader = dict(
            batch_size=256,  # 128 pairs
            sampler=dict(type='SameClassPairSampler'),
            ...)

    That is the published form. In another one all images have one run, the
    cross entropy is that of all of them, and batch normalisation sees both
    halves together: :class:`SelfDistill` with ``CSKDLoss(preds_S,
    gt_labels)``. It takes as many forward passes and twice the backward
    ones; take it where twice as many labels are worth that.

    Reference:
        Yun et al., Regularizing Class-wise Predictions via Self-knowledge
        Distillation, CVPR 2020, https://arxiv.org/abs/2003.13964. The order
        of the runs, the mode and the cross entropy of the first images
        alone are those of the published code
        (https://github.com/alinlab/cs-kd).

    Args:
        **kwargs: The options of :class:`SelfDistill`; the distiller needs
            ``teacher_recorders``.

    Raises:
        ValueError: If there are no teacher recorders, or as for
            :class:`SelfDistill`.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self._seconds = None
        self._seen_labels = False

    def check_teacher_recorders(self) -> None:
        """Check that something records the second images.

        Raises:
            ValueError: If nothing does.
        """
        if not self.distiller.teacher_recorders:
            raise ValueError(
                'CSKD needs teacher_recorders: they record what the student '
                'says about the second images of the pairs'
            )

    def attach_recorders(self) -> None:
        """Attach the recorders of both runs to the student."""
        super().attach_recorders()
        self.distiller.prepare_from_teacher(self.student)

    def check_data(self, dataset: Sequence, loader: dict) -> None:
        """Check that the loader makes pairs.

        Args:
            dataset (Sequence): The training set.
            loader (dict): Config of its loader.

        Raises:
            ValueError: If its batch size is odd, if the engine's own sampler
                deals out the images, or if there are no labels.
        """
        super().check_data(dataset, loader)
        if loader.get('batch_size', 2) % 2:
            raise ValueError(
                f'batch_size must be even, as a batch is pairs, but got '
                f'{loader["batch_size"]}'
            )
        kind = (loader.get('sampler') or {}).get('type')
        if kind in ('DefaultSampler', 'InfiniteSampler'):
            raise ValueError(
                f"CSKD needs sampler=dict(type='SameClassPairSampler'), but "
                f'got {kind!r}, which makes no pairs'
            )

    def loss(
        self, inputs: Tensor, data_samples: Optional[Sequence] = None
    ) -> dict[str, Tensor]:
        """Run the student twice and compute all losses.

        Args:
            inputs (Tensor): Normalised images of pairs, shape ``(2N, C, H,
                W)``.
            data_samples (Sequence[DataSample], optional): Labels and
                indices; the mappings read those of the first images.
                Defaults to None.

        Returns:
            dict[str, Tensor]: The loss terms.

        Raises:
            ValueError: If the batch does not consist of pairs, or if labels
                are needed and not there.
        """
        if len(inputs) % 2:
            raise ValueError(
                f'a batch of pairs must have an even size, but got '
                f'{len(inputs)} images: set an even batch_size'
            )
        self._check_labels(stack(data_samples, 'gt_label'))
        if isinstance(data_samples, BatchSamples):
            data_samples = data_samples.rows(_FIRSTS)
        elif data_samples is not None:
            data_samples = data_samples[_FIRSTS]
        self._seconds = inputs[_SECONDS]
        try:
            return super().loss(inputs[_FIRSTS], data_samples)
        finally:
            self._seconds = None

    def _check_labels(self, labels: Optional[Tensor]) -> None:
        # Looked at once where that has to wait for the device.
        if labels is None or (
            labels.device.type != 'cpu' and self._seen_labels
        ):
            return
        check_pairs(labels)
        self._seen_labels = True

    def run_student(
        self, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> dict[str, Tensor]:
        """Record the student on the first images, then on the second ones.

        Args:
            inputs (Tensor): The first images.
            data_samples (Sequence[DataSample], optional): Their labels.

        Returns:
            dict[str, Tensor]: Its own loss on the first images.
        """
        losses = super().run_student(inputs, data_samples)
        # Not before the first: autocast would keep its copies of the weights,
        # made without a graph, for the pass that needs one.
        with torch.no_grad(), self.distiller.record_teacher():
            self.student(self._seconds, mode='tensor')
        return losses
