"""The data samples of a batch, as tensors until somebody wants them."""

from collections.abc import Sequence
from typing import Optional, Union

from mmpretrain.structures import DataSample
from torch import Tensor


class BatchSamples(Sequence):
    """A list of :class:`mmpretrain.structures.DataSample`, made on demand.

    Distillation on unlabeled images never looks at single samples, and
    making 128 objects a batch costs as much as reading its images. To
    mmpretrain's heads this is the list they expect.

    Args:
        sample_idx (Tensor): Positions in the data set, int64, shape
            ``(B,)``.
        gt_label (Tensor, optional): Class indices, int64, shape ``(B,)``.
            Defaults to None (unlabeled).
    """

    def __init__(
        self, sample_idx: Tensor, gt_label: Optional[Tensor] = None
    ) -> None:
        self.sample_idx = sample_idx
        self.gt_label = gt_label
        self._samples = None

    def _materialise(self) -> list[DataSample]:
        if self._samples is None:
            self._samples = [
                DataSample(metainfo=dict(sample_idx=index))
                for index in self.sample_idx.tolist()
            ]
            if self.gt_label is not None:
                for sample, label in zip(
                    self._samples, self.gt_label, strict=True
                ):
                    sample.set_field(label[None], 'gt_label')
        return self._samples

    def rows(self, index: slice) -> 'BatchSamples':
        """Get some of the samples, without making any.

        Args:
            index (slice): Which ones.

        Returns:
            BatchSamples: These, as they were when the batch was made.
        """
        label = None if self.gt_label is None else self.gt_label[index]
        return BatchSamples(self.sample_idx[index], label)

    def __len__(self) -> int:
        return len(self.sample_idx)

    def __getitem__(
        self, index: Union[int, slice]
    ) -> Union[DataSample, list[DataSample]]:
        """Get one sample, or a list of them for a slice."""
        return self._materialise()[index]
