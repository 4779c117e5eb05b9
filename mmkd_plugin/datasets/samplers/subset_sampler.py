"""Base of the samplers that draw from a part of a data set."""

from collections.abc import Iterator
from typing import Optional

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler


class SubsetSampler(Sampler):
    """Draws from some images, the same on every rank.

    An epoch is one pass over them, shuffled by seed and epoch. Every rank
    gets the same number: where it does not come out even, the first samples
    of the epoch are repeated. Subclasses set ``indices``.

    Args:
        dataset (Dataset): The images.
        shuffle (bool): Whether to shuffle every epoch. Defaults to True.
        seed (int, optional): Seed. Defaults to None: drawn, and sent to all
            ranks.
    """

    #: np.ndarray: Positions in the data set, int64.
    indices: np.ndarray

    def __init__(
        self,
        dataset: Dataset,
        *,
        shuffle: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.rank, self.world_size = get_dist_info()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the shuffling depends.

        Args:
            epoch (int): Number of the epoch.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = self.indices
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = order[torch.randperm(len(order), generator=generator)]
        order = np.resize(order, len(self) * self.world_size)
        return iter(order[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return -(-len(self.indices) // self.world_size)
