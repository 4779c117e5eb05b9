"""Draw from those unlabeled images that the teacher can teach with."""

import logging
import math
from typing import Optional, Union

from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS
from torch import nn
from torch.utils.data import Dataset

from mmkd_plugin.datasets.selection import ORDERS, THRESHOLDS, select
from mmkd_plugin.utils.checks import check_choice, check_number

from .scored_subset_sampler import ScoredSubsetSampler


@DATA_SAMPLERS.register_module()
class AdaptiveThresholdSampler(ScoredSubsetSampler):
    """Adaptive-threshold selection of unlabeled samples.

    When it is built, the teacher runs once over all images, without
    augmentation and with its own normalisation, the work divided among the
    ranks; then a threshold on its confidence, which adapts to the data set,
    makes the candidate set X', and ``num_samples`` of it are the training
    set X'', the same on every rank. An epoch is one pass over X'', shuffled;
    every rank gets the same number of samples. Labels of the data set, if
    there are any, are never looked at.

    Reference:
        Wang et al., Explicit and Implicit Knowledge Distillation via
        Unlabeled Data, ICASSP 2023, https://arxiv.org/abs/2302.08771. The
        paper's wording: an adaptive threshold delta with a hyper-parameter
        gamma in (0, 1); with larger gamma and lower delta, samples with more
        information are valued higher, with smaller gamma and higher delta
        more confident ones; samples of low confidence or too little
        information are not selected. Reconstruction: the paper's equations
        could not be obtained; ``threshold='quantile'`` with
        ``order='informative'`` is a rule that meets all three statements,
        and the other rules are further readings of them. ``num_samples``
        well below ``gamma`` times the size of the data set is needed for the
        last statement. ``order='confident'`` is the rule of DFND (Chen et
        al., Learning Student Networks in the Wild, CVPR 2021), under which
        gamma has no effect.

    Args:
        dataset (Dataset): The unlabeled images. Given by the runner.
        num_samples (int): Size of X''. Where X' is smaller, X'' is X', with
            a warning; images are never repeated nor taken from below the
            threshold.
        gamma (float): In (0, 1). Defaults to 0.5.
        threshold (str): ``'quantile'``, ``'class_prior'``, ``'mean_max'`` or
            ``'class_quantile'``, see
            :func:`~mmkd_plugin.datasets.selection.select`. Defaults to
            ``'quantile'``.
        order (str): ``'informative'``, ``'random'`` or ``'confident'``.
            Defaults to ``'informative'``.
        strict (bool): What to do when no image passes (possible with
            ``threshold='class_prior'`` alone): raise, or take the most
            confident images, with a warning. Defaults to False.
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
        seed (int, optional): Seed of the shuffling and of
            ``order='random'``. Given by the runner.

    Raises:
        ValueError: If an option is out of its range, the data set is empty
            or augments, the teacher's logits are not finite, or the cache is
            corrupt or was made with another teacher, data set or transform.

    Attributes:
        scores (Scores): The teacher's scores of all images.
        selection (Selection): The choice.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        num_samples: int,
        gamma: float = 0.5,
        threshold: str = 'quantile',
        order: str = 'informative',
        strict: bool = False,
        teacher: Optional[Union[dict, nn.Module]] = None,
        teacher_ckpt: Optional[str] = None,
        data_preprocessor: Optional[dict] = None,
        cache_file: Optional[str] = None,
        batch_size: int = 512,
        num_workers: int = 0,
        shuffle: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        self.check_options(
            num_samples=num_samples,
            gamma=gamma,
            threshold=threshold,
            order=order,
            batch_size=batch_size,
        )
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
            select(
                self.scores, num_samples, gamma, threshold, order, self.seed
            )
        )
        self.indices = self.selection.indices
        self._report(num_samples, strict)

    @staticmethod
    def check_options(
        *,
        num_samples: int,
        gamma: float = 0.5,
        threshold: str = 'quantile',
        order: str = 'informative',
        batch_size: int = 512,
        **_,
    ) -> None:
        """Check the options that can be checked without data.

        Args:
            num_samples (int): See the class.
            gamma (float): See the class.
            threshold (str): See the class.
            order (str): See the class.
            batch_size (int): See the class.

        Raises:
            ValueError: If one is out of its range.
        """
        ScoredSubsetSampler.check_options(
            num_samples=num_samples, batch_size=batch_size
        )
        check_number('gamma', gamma, above=0, below=1)
        check_choice('threshold', threshold, THRESHOLDS)
        check_choice('order', order, ORDERS)

    def _report(self, num_samples: int, strict: bool) -> None:
        found = self.selection
        candidates = int(found.candidates.sum())
        if found.fallback:
            message = (
                f'no image reaches the confidence delta = {found.delta:.4g} '
                f'of threshold={found.threshold!r} with gamma={found.gamma}'
            )
            if strict:
                raise ValueError(f'{message}; raise gamma')
            print_log(
                f'{message}: the {len(found.indices)} most confident images '
                f'are taken instead',
                'current',
                logging.WARNING,
            )
        elif num_samples > candidates:
            print_log(
                f'num_samples={num_samples} is more than the {candidates} '
                f'images over the threshold: all of these are taken',
                'current',
                logging.WARNING,
            )
        chosen = self.scores.uncertainty[found.indices]
        print_log(
            f'adaptive threshold: {len(self.scores.uncertainty)} images, '
            f'{candidates} with a confidence >= {found.delta:.6g} '
            f'(gamma {found.gamma}, {found.threshold}), '
            f'{len(found.indices)} chosen ({found.order}), confidences '
            f'{math.exp(-chosen.max()):.6g} to {math.exp(-chosen.min()):.6g}',
            'current',
        )
