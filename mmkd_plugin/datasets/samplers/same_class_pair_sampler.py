"""Draw images in pairs of one class."""

import logging
from collections.abc import Iterator
from typing import Optional

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Dataset

from mmkd_plugin.datasets.dataset_labels import dataset_labels

from .subset_sampler import SubsetSampler


@DATA_SAMPLERS.register_module()
class SameClassPairSampler(SubsetSampler):
    """Draw images in pairs of one class, side by side.

    An epoch is one pass over the data set, shuffled by seed and epoch, in
    which every image is followed by another one of its class, drawn anew in
    every epoch: twice as many samples as there are images. So a batch of an
    even size B holds B / 2 pairs, the first image of a pair at an even
    position, as :class:`CSKDLoss` wants them. An image that is alone in its
    class is paired with itself; how many there are is counted and logged.

    Every rank gets the same number of pairs: where it does not come out even,
    the first pairs of the epoch are repeated.

    Reference:
        The pairs are those of Yun et al., Regularizing Class-wise
        Predictions via Self-knowledge Distillation, CVPR 2020,
        https://arxiv.org/abs/2003.13964. What differs from the published
        code: there a batch is all first images, then all second ones, and an
        image may be drawn as its own partner.

    Args:
        dataset (Dataset): The images, with ``labels`` or
            ``get_gt_labels()``. Given by the runner. ``batch_size`` of the
            loader must be even.
        shuffle (bool): Whether to shuffle the pairs every epoch; partners
            are drawn anew in any case. Defaults to True.
        seed (int, optional): Seed. Given by the runner.

    Raises:
        ValueError: If the data set has no labels, or not one an image.

    Attributes:
        num_alone (int): How many images are alone in their class.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        shuffle: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        super().__init__(dataset, shuffle=shuffle, seed=seed)
        labels = dataset_labels(dataset, type(self).__name__)
        self.indices = np.arange(len(labels))
        # Images sorted by class, and for each image its place in this order,
        # where its class starts and how many there are.
        self._by_class = np.argsort(labels, kind='stable')
        _, which, counts = np.unique(
            labels, return_inverse=True, return_counts=True
        )
        self._place = np.empty_like(self._by_class)
        self._place[self._by_class] = self.indices
        self._first = (np.cumsum(counts) - counts)[which]
        self._count = counts[which]
        self.num_alone = int((counts == 1).sum())
        if self.num_alone:
            print_log(
                f'{self.num_alone} of {len(labels)} images are alone in their '
                f'class and are paired with themselves',
                'current',
                logging.WARNING,
            )

    def _partners(self) -> np.ndarray:
        """Draw another image of its class for every image."""
        # A stream of its own, or partners would go with the order.
        rng = np.random.default_rng((self.seed, self.epoch))
        others = np.maximum(self._count - 1, 1)
        step = np.where(self._count > 1, rng.integers(others) + 1, 0)
        place = (self._place - self._first + step) % self._count
        return self._by_class[self._first + place]

    def __iter__(self) -> Iterator[int]:
        order = self.indices
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = order[torch.randperm(len(order), generator=generator)]
        order = np.resize(order, len(self) // 2 * self.world_size)
        firsts = order[self.rank :: self.world_size]
        pairs = np.stack([firsts, self._partners()[firsts]], axis=1)
        return iter(pairs.ravel().tolist())

    def __len__(self) -> int:
        return 2 * super().__len__()
