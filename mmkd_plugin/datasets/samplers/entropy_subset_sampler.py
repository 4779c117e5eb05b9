"""Draw from the images about which a teacher is the least decided."""

from typing import Optional, Union

import numpy as np
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS
from torch import nn
from torch.utils.data import Dataset

from mmkd_plugin.datasets.selection import select_by_entropy

from .scored_subset_sampler import ScoredSubsetSampler


def _check_size(num_samples: int, dataset: Dataset) -> None:
    # select_by_entropy() says so too, but after the teacher's pass.
    if num_samples > len(dataset):
        raise ValueError(
            f'num_samples={num_samples} is more than the {len(dataset)} '
            f'images of the data set: give at most that, or use '
            f'DefaultSampler to train on all of them'
        )


@DATA_SAMPLERS.register_module()
class EntropySubsetSampler(ScoredSubsetSampler):
    """Draw from the images with the largest entropy of the teacher.

    When it is built, the teacher runs once over all images, as for
    :class:`AdaptiveThresholdSampler`, whose score cache it can share; then
    the ``num_samples`` images with the largest entropy of the teacher's
    softmax are the training set, the same on every rank. An epoch is one pass
    over them, shuffled; every rank gets the same number of samples. Labels of
    the data set, if there are any, are never looked at.

    Reference:
        Fang et al., Mosaicking to Distill: Knowledge Distillation from
        Out-of-Domain Data, NeurIPS 2021, https://arxiv.org/abs/2110.15094.
        The rule is that of the released program for ImageNet32 and
        Places365, where ``num_samples`` is the size of the teacher's
        training set (50,000 for CIFAR-100). Here the entropy is computed in
        float64 and in log space: there it is NaN where a probability
        underflows, which sorts the most confident images to the front.

    Args:
        dataset (Dataset): The out-of-domain images. Given by the runner.
        num_samples (int): Number of images, at most the size of the data
            set. Among equal entropies, those that come first in the data set
            are taken.
        teacher (dict or nn.Module, optional): Config of the teacher. Defaults
            to None: the teacher of the model that is being trained, with its
            ``data_preprocessor``.
        teacher_ckpt (str, optional): Checkpoint of ``teacher``; a built
            module needs none.
        data_preprocessor (dict, optional): Config of the preprocessor of
            ``teacher``.
        cache_file (str, optional): Where the scores are kept between runs.
            Defaults to None (nowhere).
        batch_size (int): Images a forward pass. Defaults to 512.
        num_workers (int): Worker processes that read images. Defaults to 0.
        shuffle (bool): Whether to shuffle every epoch. Defaults to True.
        seed (int, optional): Seed of the shuffling. Given by the runner.

    Raises:
        ValueError: If an option is out of its range, the data set is smaller
            than ``num_samples`` or augments, the teacher's logits are not
            finite, or the cache is corrupt or was made with another teacher,
            data set or transform.

    Attributes:
        scores (Scores): The teacher's scores of all images.
        selection (EntropySelection): The choice.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        num_samples: int,
        teacher: Optional[Union[dict, nn.Module]] = None,
        teacher_ckpt: Optional[str] = None,
        data_preprocessor: Optional[dict] = None,
        cache_file: Optional[str] = None,
        batch_size: int = 512,
        num_workers: int = 0,
        shuffle: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        self.check_options(num_samples=num_samples, batch_size=batch_size)
        _check_size(num_samples, dataset)
        super().__init__(
            dataset,
            teacher=teacher,
            teacher_ckpt=teacher_ckpt,
            data_preprocessor=data_preprocessor,
            cache_file=cache_file,
            batch_size=batch_size,
            num_workers=num_workers,
            shuffle=shuffle,
            seed=seed,
        )
        self.selection = self._of_rank_0(
            select_by_entropy(self.scores, num_samples)
        )
        self.indices = np.sort(self.selection.indices)
        entropy = self.scores.entropy
        print_log(
            f'largest entropy: {len(self.indices)} of {len(entropy)} images '
            f'chosen, entropies {self.selection.min_entropy:.6g} to '
            f'{entropy.max():.6g} nats, mean of all {entropy.mean():.6g}',
            'current',
        )

    @classmethod
    def check_inputs(
        cls,
        dataset: Dataset,
        algorithm: nn.Module,
        *,
        num_samples: int,
        **options,
    ) -> None:
        """Check size, teacher and cache without scoring the whole data set.

        Args:
            dataset (Dataset): The images.
            algorithm (nn.Module): The model that is to be trained.
            num_samples (int): See the class.
            **options: The other options of the class.

        Raises:
            ValueError: If there are fewer images, the cache is corrupt or
                stale, or the teacher's logits of the first images are not
                finite.
        """
        _check_size(num_samples, dataset)
        super().check_inputs(dataset, algorithm, **options)
