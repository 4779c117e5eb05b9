"""What the schemes that learn from the student's own past share."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from mmkd_plugin.utils.architecture import num_classes as classes_of
from mmkd_plugin.utils.checks import nearest

from .base_distill import stack
from .self_distill import SelfDistill

# Not a name that a mapping could read: the distiller gets the indices on the
# device of the images, and what is checked or compared is so on the CPU.
_INDEX = 'index of the batch'


class PastDistill(SelfDistill):
    """A student that learns from the logits of earlier steps.

    A subclass gives them to the mapping as ``from_batch``, under the name
    ``past``, and keeps those of the step in :meth:`remember`.

    Args:
        logits (str): Name of the student recorder that records the logits.
            Defaults to ``'logits'``.
        **kwargs: The options of :class:`SelfDistill`.

    Raises:
        ValueError: If there is no such recorder, if no loss reads the past,
            or as for :class:`SelfDistill`.
    """

    #: str: What the scheme's losses read by ``from_batch``.
    past: str

    def __init__(self, *, logits: str = 'logits', **kwargs) -> None:
        super().__init__(**kwargs)
        name = type(self).__name__
        recorders = self.distiller.student_recorders
        if logits not in recorders:
            raise ValueError(
                f'{name} keeps the logits of the student recorder {logits!r},'
                f' but there is none; {nearest(str(logits), recorders)}'
            )
        if self.past not in self.distiller.batch_sources():
            raise ValueError(
                f'{name} gives {self.past}, which no loss reads: map it by '
                f'{self.past}=dict(from_batch={self.past!r})'
            )
        self._recorder = recorders[logits]

    def known_classes(self, given: Optional[int]) -> int:
        """Find the number of classes.

        Args:
            given (int, optional): What the config says.

        Returns:
            int: The number.

        Raises:
            ValueError: If neither config nor student tells, or if they
                disagree.
        """
        own = classes_of(self.student)
        if given is None and own is None:
            raise ValueError(
                f'{type(self).__name__} needs num_classes, as the student '
                f'does not tell'
            )
        if None not in (given, own) and given != own:
            raise ValueError(
                f'num_classes must be {own}, those of the student, but got '
                f'{given!r}'
            )
        return own if given is None else given

    def index_of(self, data_samples: Optional[Sequence]) -> Tensor:
        """Get where the images of a batch stand in the data set.

        Args:
            data_samples (Sequence[DataSample], optional): The data samples.

        Returns:
            Tensor: int64, shape ``(B,)``, on the CPU as a rule.

        Raises:
            ValueError: If a sample does not tell.
        """
        index = stack(data_samples, 'sample_idx')
        if index is None:
            raise ValueError(
                f'{type(self).__name__} needs the sample_idx of all data '
                f'samples: the data sets of mmengine, mmpretrain and this '
                f'package give it, and PackInputs must keep it (meta_keys)'
            )
        return index

    def batch_values(
        self, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> dict[str, Tensor]:
        """See :meth:`BaseDistill.batch_values`; with the indices."""
        index = self.index_of(data_samples)
        return {**super().batch_values(inputs, data_samples), _INDEX: index}

    def after_losses(self, batch: dict[str, Tensor]) -> None:
        """Keep the logits of the step, if it is one with gradients.

        Args:
            batch (dict[str, Tensor]): What :meth:`batch_values` returned.
        """
        # To measure a loss changes nothing.
        if torch.is_grad_enabled():
            self.remember(batch[_INDEX], batch, self._recorder.get_record())

    def remember(
        self, index: Tensor, batch: dict[str, Tensor], logits: Tensor
    ) -> None:
        """Keep the logits of the step.

        Args:
            index (Tensor): What :meth:`index_of` returned.
            batch (dict[str, Tensor]): What the mappings read.
            logits (Tensor): Shape ``(B, C)``.
        """
        raise NotImplementedError
