"""Base of the samplers that choose by what a teacher says."""

import hashlib
import os
from typing import Any, Optional, Union

import torch
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from mmkd_plugin.datasets.array_images import array_collate
from mmkd_plugin.datasets.scoring import (
    Scores,
    cached_scores,
    dataset_fingerprint,
    load_scores,
    score_dataset,
    weights_fingerprint,
)
from mmkd_plugin.utils.architecture import build_architecture
from mmkd_plugin.utils.checkpoint import load_strict, load_weights
from mmkd_plugin.utils.checks import check_count
from mmkd_plugin.utils.running_algorithm import running_algorithm

from .subset_sampler import SubsetSampler


def _score_key(
    model: nn.Module, preprocessor: nn.Module, dataset: Dataset
) -> dict[str, str]:
    """Name what the scores depend on."""
    options = [type(preprocessor).__name__]
    for name in ('mean', 'std', 'to_rgb', 'pad_size_divisor', 'pad_value'):
        value = getattr(preprocessor, name, None)
        # Not repr(): it rounds, and it names the device.
        if isinstance(value, Tensor):
            value = value.flatten().tolist()
        options.append(f'{name}={value}')
    return dict(
        teacher=weights_fingerprint(model),
        dataset=dataset_fingerprint(dataset),
        transform=hashlib.sha256(str(options).encode()).hexdigest(),
    )


class ScoredSubsetSampler(SubsetSampler):
    """Draws from images that are chosen by a teacher's scores.

    When it is built, the teacher runs once over all images, without
    augmentation and with its own normalisation, the work divided among the
    ranks. The scores do not depend on the rule of the choice: samplers of
    different rules can share a ``cache_file``. Subclasses choose from
    ``scores`` and set ``selection`` and ``indices``.

    Args:
        dataset (Dataset): The images.
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
        seed (int, optional): Seed of the shuffling. Defaults to None: drawn,
            and sent to all ranks.

    Raises:
        ValueError: If the data set is empty or augments, the teacher is
            incomplete or its logits are not finite, or the cache is corrupt
            or was made with another teacher, data set or transform.

    Attributes:
        scores (Scores): The teacher's scores of all images.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        teacher: Optional[Union[dict, nn.Module]] = None,
        teacher_ckpt: Optional[str] = None,
        data_preprocessor: Optional[dict] = None,
        cache_file: Optional[str] = None,
        batch_size: int = 512,
        num_workers: int = 0,
        shuffle: bool = True,
        seed: Optional[int] = None,
    ) -> None:
        super().__init__(dataset, shuffle=shuffle, seed=seed)
        model, preprocessor = self._teacher(
            teacher, teacher_ckpt, data_preprocessor
        )

        def logits(batch: dict) -> Tensor:
            inputs = preprocessor(batch, False)['inputs']
            return model(inputs, mode='tensor')

        self.scores: Scores = cached_scores(
            lambda: score_dataset(logits, dataset, batch_size, num_workers),
            cache_file,
            lambda: _score_key(model, preprocessor, dataset),
        )

    @staticmethod
    def check_options(*, num_samples: int, batch_size: int = 512, **_) -> None:
        """Check the options that can be checked without data.

        Args:
            num_samples (int): Number of images that are chosen.
            batch_size (int): See the class.

        Raises:
            ValueError: If one is no positive integer.
        """
        check_count('num_samples', num_samples)
        check_count('batch_size', batch_size)

    @classmethod
    def check_inputs(
        cls,
        dataset: Dataset,
        algorithm: nn.Module,
        *,
        teacher: Optional[Union[dict, nn.Module]] = None,
        teacher_ckpt: Optional[str] = None,
        data_preprocessor: Optional[dict] = None,
        cache_file: Optional[str] = None,
        **_,
    ) -> None:
        """Check teacher and cache without scoring the whole data set.

        Args:
            dataset (Dataset): The images.
            algorithm (nn.Module): The model that is to be trained.
            teacher (dict or nn.Module, optional): See the class.
            teacher_ckpt (str, optional): See the class.
            data_preprocessor (dict, optional): See the class.
            cache_file (str, optional): See the class.

        Raises:
            ValueError: If the cache is corrupt or stale, or the teacher's
                logits of the first images are not finite.
        """
        if teacher is None and hasattr(algorithm, 'teacher'):
            model = algorithm.teacher
            preprocessor = algorithm.data_preprocessor
        else:
            model, preprocessor = cls._teacher(
                teacher, teacher_ckpt, data_preprocessor
            )
        if cache_file is not None and os.path.exists(cache_file):
            load_scores(cache_file, _score_key(model, preprocessor, dataset))
            return
        first = Subset(dataset, range(min(len(dataset), 8)))
        batch = next(iter(DataLoader(first, 8, collate_fn=array_collate)))
        with torch.no_grad():
            logits = model(preprocessor(batch, False)['inputs'], mode='tensor')
        if not torch.isfinite(logits).all():
            raise ValueError(
                'the teacher gives NaN or infinite logits for the first '
                'images: check its checkpoint and the normalisation'
            )

    @classmethod
    def _teacher(
        cls,
        teacher: Optional[Union[dict, nn.Module]],
        teacher_ckpt: Optional[str],
        data_preprocessor: Optional[dict],
    ) -> tuple[nn.Module, nn.Module]:
        """Get the teacher and its preprocessor, ready to run."""
        if teacher is None:
            algorithm = running_algorithm()
            if not hasattr(algorithm, 'teacher'):
                raise ValueError(
                    f'{cls.__name__} has no teacher: use it in a run whose '
                    f'model is a SingleTeacherDistill, or give teacher, '
                    f'teacher_ckpt and data_preprocessor'
                )
            return algorithm.teacher, algorithm.data_preprocessor
        if data_preprocessor is None:
            raise ValueError(
                'a teacher of its own needs its data_preprocessor, too'
            )
        if isinstance(teacher, dict):
            if teacher_ckpt is None:
                raise ValueError(
                    'teacher_ckpt is missing: the answers of an untrained '
                    'teacher select nothing. Give the path of its '
                    'checkpoint, or a built teacher'
                )
            teacher = build_architecture(teacher)
        if teacher_ckpt is not None:
            weights = load_weights(os.fspath(teacher_ckpt))
            load_strict(teacher, weights, f'teacher from {teacher_ckpt}')
        teacher.train(False)
        if isinstance(data_preprocessor, dict):
            data_preprocessor = MODELS.build(data_preprocessor)
        device = get_device()
        return teacher.to(device), data_preprocessor.to(device)

    @staticmethod
    def _of_rank_0(choice: Any) -> Any:
        """Get the choice of rank 0, on every rank."""
        # Equal scores give equal choices; sending the choice makes sure.
        sent = [choice]
        broadcast_object_list(sent)
        return sent[0]
