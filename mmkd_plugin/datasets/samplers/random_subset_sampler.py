"""Draw from randomly chosen images."""

from typing import Optional

import numpy as np
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Dataset

from mmkd_plugin.utils.checks import check_count

from .subset_sampler import SubsetSampler


@DATA_SAMPLERS.register_module()
class RandomSubsetSampler(SubsetSampler):
    """Draw from ``num_samples`` randomly chosen images.

    The baseline of every selection: the choice depends on the seed alone.

    Args:
        dataset (Dataset): The images. Given by the runner.
        num_samples (int): Number of images; all where there are fewer.
        shuffle (bool): Whether to shuffle every epoch. Defaults to True.
        seed (int, optional): Seed. Given by the runner.

    Raises:
        ValueError: If ``num_samples`` is no positive integer.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        num_samples: int,
        shuffle: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        self.check_options(num_samples=num_samples)
        super().__init__(dataset, shuffle=shuffle, seed=seed)
        order = np.random.default_rng(self.seed).permutation(len(dataset))
        self.indices = np.sort(order[:num_samples])

    @staticmethod
    def check_options(*, num_samples: int, **_) -> None:
        """Check the options that can be checked without data.

        Args:
            num_samples (int): See the class.

        Raises:
            ValueError: If it is no positive integer.
        """
        check_count('num_samples', num_samples)
