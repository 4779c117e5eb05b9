"""Images that lie in one uint8 array and are read a batch at a time."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset


class ArrayImages(Dataset):
    """Base of the data sets whose images lie in one uint8 array.

    PyTorch's ``DataLoader`` asks such a data set for a whole batch
    (``__getitems__``), which costs one indexing operation instead of a
    Python call per image. The random part of the input, cropping and
    flipping, is done on the device by
    :class:`~mmkd_plugin.models.BatchAugDataPreprocessor`, so what this class
    returns never depends on chance nor on the number of workers. Use it with
    ``collate_fn=dict(type='array_collate')``.

    Subclasses set the four attributes by calling ``__init__``.

    Args:
        images (np.ndarray): RGB images, shape ``(N, H, W, 3)``, dtype uint8.
            A memory map stays one.
        labels (Sequence[int], optional): Class indices, one an image.
            Defaults to None (unlabeled).
        classes (Sequence[str], optional): Names of the classes. Defaults
            to None.

    Raises:
        TypeError: If ``images`` is not of dtype uint8.
        ValueError: If shape or number of labels do not fit, or if there is
            no image at all.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Optional[Sequence[int]] = None,
        classes: Optional[Sequence[str]] = None,
    ) -> None:
        if images.dtype != np.uint8:
            raise TypeError(f'images must be uint8, but got {images.dtype}')
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f'images must have the shape (N, H, W, 3), but got '
                f'{images.shape}'
            )
        if len(images) == 0:
            raise ValueError(f'{type(self).__name__} holds no image')
        if labels is not None and len(labels) != len(images):
            raise ValueError(
                f'{len(labels)} labels do not fit {len(images)} images'
            )
        self.images = images
        self.labels = (
            None if labels is None else np.asarray(labels, dtype=np.int64)
        )
        self._metainfo = {} if classes is None else dict(classes=list(classes))

    @property
    def metainfo(self) -> dict:
        """dict: ``classes`` where they are known."""
        return copy.deepcopy(self._metainfo)

    def fingerprint(self) -> str:
        """Name the content of the data set.

        Returns:
            str: A SHA-256 over shape, pixels and labels, in hex. Equal
            fingerprints mean equal images in equal order.
        """
        digest = hashlib.sha256(str(self.images.shape).encode())
        for start in range(0, len(self.images), 8192):
            block = np.ascontiguousarray(self.images[start : start + 8192])
            digest.update(block.data)
        if self.labels is not None:
            digest.update(self.labels.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        """Get one image the way mmpretrain's ``PackInputs`` packs it.

        Args:
            index (int): Position in the data set.

        Returns:
            dict: ``inputs``, a uint8 tensor of shape ``(3, H, W)``, and
            ``data_samples``, a :class:`mmpretrain.structures.DataSample`.
        """
        image = torch.from_numpy(np.array(self.images[index]))
        sample = DataSample(metainfo=dict(sample_idx=int(index)))
        if self.labels is not None:
            sample.set_gt_label(int(self.labels[index]))
        return dict(inputs=image.permute(2, 0, 1), data_samples=sample)

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """Get a batch.

        Args:
            indices (Sequence[int]): Positions in the data set.

        Returns:
            dict: ``inputs``, a uint8 tensor of shape ``(B, 3, H, W)`` in
            channels-last memory, ``sample_idx``, an int64 tensor ``(B,)``,
            and ``gt_label``, likewise, where there are labels.
        """
        index = np.asarray(indices, dtype=np.int64)
        batch = dict(
            inputs=torch.from_numpy(self.images[index]).permute(0, 3, 1, 2),
            sample_idx=torch.from_numpy(index),
        )
        if self.labels is not None:
            batch['gt_label'] = torch.from_numpy(self.labels[index])
        return batch


@FUNCTIONS.register_module()
def array_collate(data_batch: Union[dict, Sequence]) -> dict:
    """Pass on the batches that :class:`ArrayImages` has made already.

    Args:
        data_batch (dict or Sequence): A batch, or single samples of any
            other data set, which mmengine's ``pseudo_collate`` merges.

    Returns:
        dict: The batch.
    """
    if isinstance(data_batch, dict):
        return data_batch
    return pseudo_collate(data_batch)
