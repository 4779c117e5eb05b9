"""How the errors of several students go together on held-out images."""

import copy
from collections.abc import Sequence
from typing import Optional, Union

import torch
from mmengine.dist import all_reduce, get_dist_info
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from mmkd_plugin.models.algorithms.base_distill import stack
from mmkd_plugin.utils.checks import check_labels

from .weight_distance_hook import check_by_epoch


@HOOKS.register_module()
class ErrorCovarianceHook(Hook):
    r"""Measure what ``KDCL(target='general')`` weighs its students by.

    After each epoch all students answer images that are not trained on:

    .. math::
        C_{ij} = \frac{1}{N} \sum_n (p_i(x_n) - y_n)^T (p_j(x_n) - y_n)

    with the one-hot label :math:`y`. The weights that the model makes of it
    are its buffer, and so in the checkpoint of that epoch. Of images that a
    sampler repeats for several processes, each counts once, if they are dealt
    out in turns, as ``DefaultSampler`` does.

    Reference:
        Guo et al., Online Knowledge Distillation via Collaborative Learning,
        CVPR 2020; from second-hand descriptions, not verified.

    Args:
        dataloader (dict): Config of a loader of labeled images that the
            training does not use, with a sampler that does not shuffle.

    Raises:
        ValueError: If the model is no such one, if there are no images or no
            labels, or if the run has no epochs.
    """

    # After buffers have been synchronised, before CheckpointHook.
    priority = 'BELOW_NORMAL'

    def __init__(self, *, dataloader: dict) -> None:
        if not isinstance(dataloader, dict) or 'dataset' not in dataloader:
            raise ValueError(
                f'dataloader must be the config of a loader, with its '
                f'dataset, but got {dataloader!r}'
            )
        if (dataloader.get('sampler') or {}).get('shuffle'):
            raise ValueError(
                'dataloader.sampler must not shuffle, as held-out images are '
                'told apart by their turn, but got shuffle=True'
            )
        self.dataloader = dataloader
        self._loader: Optional[DataLoader] = None

    def check_inputs(
        self,
        model: nn.Module,
        dataset: Sequence,
        loader: dict,
        checkpoint: Optional[dict] = None,
    ) -> None:
        """Check what can be checked before a run writes anything.

        Args:
            model (nn.Module): The algorithm.
            dataset (Sequence): The training set.
            loader (dict): Config of its loader.
            checkpoint (dict, optional): What the run is resumed from.
                Defaults to None.

        Raises:
            ValueError: If the model takes no measurements, or if there are
                no held-out images or no labels.
        """
        _check_model(model)
        held_out = self._build(0)
        data = model.data_preprocessor(next(iter(held_out)), False)
        _labels(data['data_samples'])
        model.expect_measurements()

    def _build(self, seed: Optional[int]) -> DataLoader:
        loader = Runner.build_dataloader(copy.deepcopy(self.dataloader), seed)
        if len(loader) == 0:
            raise ValueError('there are no held-out images')
        return loader

    def before_train(self, runner: Runner) -> None:
        """Build the loader.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: As :meth:`check_inputs`, or if the run has no epochs.
        """
        model = get_ori_model(runner.model)
        _check_model(model)
        check_by_epoch(self, runner)
        self._loader = self._build(runner.seed)
        model.expect_measurements()

    @torch.no_grad()
    def after_train_epoch(self, runner: Runner) -> None:
        """Measure.

        Args:
            runner (Runner): The runner.
        """
        model = get_ori_model(runner.model)
        mode = model.training
        model.train(False)
        rank, world_size = get_dist_info()
        left = -(-(len(self._loader.dataset) - rank) // world_size)
        total, count = 0, 0
        for batch in self._loader:
            data = model.data_preprocessor(batch, False)
            labels = _labels(data['data_samples'])
            errors = _errors(model, data['inputs'], labels)
            errors = errors[:, : max(left, 0)]
            left -= len(labels)
            count += errors.shape[1]
            errors = errors.flatten(1)
            total = total + errors @ errors.T
        model.train(mode)
        sums = torch.cat([total.flatten(), total.new_tensor([count])])
        all_reduce(sums, 'sum')
        covariance = (sums[:-1] / sums[-1]).view_as(total)
        model.set_error_covariance(covariance)
        weights = model.general_weights.tolist()
        shown = ', '.join(
            f'{name} {weight:.4f}'
            for name, weight in zip(model.students, weights, strict=True)
        )
        runner.logger.info(f'weights of the students in the target: {shown}')


def _check_model(model: nn.Module) -> None:
    if getattr(model, 'target', None) != 'general':
        raise ValueError(
            f'ErrorCovarianceHook is for KDCL with target="general", but the '
            f'model is {type(model).__name__} with the target '
            f'{getattr(model, "target", None)!r}'
        )


def _labels(samples: Optional[Sequence]) -> Tensor:
    labels = stack(samples, 'gt_label')
    if labels is None:
        raise ValueError('the held-out images have no labels')
    return labels


def _errors(
    model: nn.Module, images: Union[Tensor, Sequence[Tensor]], labels: Tensor
) -> Tensor:
    """Subtract the labels from the probabilities, ``(K, N, C)``."""
    errors = []
    for logits in model.student_logits(images).values():
        prob = logits.double().softmax(dim=1)
        labels = check_labels(labels.to(prob.device), prob)
        errors.append(prob - one_hot(labels, prob.shape[1]))
    return torch.stack(errors)
