"""One network with several branches, which learn from their ensemble."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from mmengine.model import BaseModel, ModuleDict
from mmengine.registry import MODELS
from mmpretrain.models import ClsHead
from torch import Tensor, nn

from mmkd_plugin.models.schedules.progress import Clock
from mmkd_plugin.models.schedules.scheduled_loss import build_scheduled_loss
from mmkd_plugin.utils.architecture import build_architecture, num_classes
from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_label_range,
)

from .base_distill import stack
from .branches import Trunk, build_branch, find_branch_point, pooled

# Built anew for each model: a loss keeps its own options.
_DISTILL_LOSS = dict(
    type='KLDivergence',
    tau=3.0,
    loss_weight=dict(type='SigmoidRamp', value=1.0, end=80),
)


@MODELS.register_module()
class ONE(BaseModel):
    r"""On-the-fly native ensemble: branches distilled from their mixture.

    The student branches at a stage: ``num_branches`` copies of everything
    from ``branch_from`` on, each with weights of its own, stand on the same
    lower stages, which run once. A gate mixes their logits :math:`z_i`,

    .. math::
        z_e = \sum_i g_i z_i, \qquad g = \mathrm{softmax}(
            \mathrm{ReLU}(\mathrm{BN}(\mathrm{FC}(\bar f)))),

    where :math:`\bar f` is the average over the places of the map that goes
    into the branches. All branches and the mixture learn from the labels, and
    the branches from the mixture, into which the divergence sends no
    gradient:

    .. math::
        L = \sum_i \mathrm{CE}(z_i) + \mathrm{CE}(z_e) + w(t)\, \tau^2
            \sum_i \mathrm{KL}(p_e \| p_i).

    Branch 0 is the student itself, so it is validated and exported like any
    other; ``tools/export_student.py --branch 1`` exports another one. The
    cross entropy is the loss of the student's head.

    The student may be any classifier whose forward pass leads through
    ``branch_from`` alone, which is checked. Usual values are
    ``'backbone.layer4'`` for mmpretrain's ResNets, ``'backbone.layer3'`` for
    :class:`CifarResNet` and :class:`CifarWideResNet`, whose last
    normalisation then belongs to the branches as well.

    A batch needs two images at least, as the gate normalises over it:
    ``drop_last=True`` of the loader, or a data set that divides.

    Reference:
        Lan et al., Knowledge Distillation by On-the-Fly Native Ensemble,
        NeurIPS 2018, https://arxiv.org/abs/1806.04606. The defaults are
        those of the published code (commit 9da95a8 of
        https://github.com/Lan1991Xu/ONE_NeurIPS2018): three branches, a
        temperature of 3, the ramp over 80 epochs, the ReLU in the gate, and
        a mixture that is detached where it is the teacher. The ramp is not in
        the paper's loss (from recollection, not verified). The code adds 1e-7
        to the teacher's probabilities, which is left out here.

    Args:
        student (dict): Config of the student, a classifier of mmpretrain, or
            ``dict(cfg_path='mmpretrain::...')``.
        branch_from (str): Dotted path of the first module of a branch.
        num_branches (int): Number of branches, the student's own one
            included; at least 2. Defaults to 3.
        distill_loss (dict, optional): Config of the loss between a branch
            (``preds_S``) and the mixture (``preds_T``). Its ``loss_weight``
            may be that of a schedule. Defaults to None, which is
            ``dict(type='KLDivergence', tau=3.0,
            loss_weight=dict(type='SigmoidRamp', value=1.0, end=80))``.
        gate_relu (bool): Whether the gate has the ReLU before its softmax.
            Defaults to True.
        predict (str): What answers in validation: ``'branch'``, the student;
            or ``'ensemble'``, the mixture, which the paper calls ONE-E.
            Defaults to ``'branch'``.
        input_shape (Sequence[int]): Channels, height and width of the images
            with which the network is looked at when it is built; the default
            will do for all that take images of any size. Defaults to ``(3,
            32, 32)``.
        channels_last (bool): Whether the networks run in channels-last
            memory. Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If an option is out of its range, if the network has no
            such module, or if it cannot branch there.
    """

    def __init__(
        self,
        *,
        student: dict,
        branch_from: str,
        num_branches: int = 3,
        distill_loss: Optional[dict] = None,
        gate_relu: bool = True,
        predict: str = 'branch',
        input_shape: Sequence[int] = (3, 32, 32),
        channels_last: bool = False,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if not isinstance(student, dict):
            raise ValueError(
                f'student must be a config, as each branch is built from it '
                f'with weights of its own, but got a {type(student).__name__}'
            )
        check_count('num_branches', num_branches, least=2)
        self.predict = check_choice('predict', predict, ('branch', 'ensemble'))
        check_flag('gate_relu', gate_relu)
        _check_shape(input_shape)
        self.student = build_architecture(student)
        if not hasattr(getattr(self.student, 'head', None), 'loss_module'):
            raise ValueError(
                f'student must be a classifier with a head of mmpretrain, '
                f'whose loss is taken for all branches, but got a '
                f'{type(self.student).__name__} without one'
            )
        point = find_branch_point(self.student, branch_from, input_shape)
        # Of the engine: torch's own would keep init_weights from the branches.
        self.branches = ModuleDict(
            {
                str(number): build_branch(student, point)
                for number in range(1, num_branches)
            }
        )
        self.gate = _Gate(point.channels, num_branches, gate_relu)
        self.distill_loss, self._schedule = build_scheduled_loss(
            'distill_loss', distill_loss or _DISTILL_LOSS
        )
        self._clock = Clock()
        others = list(self.branches.values())
        self._trunk = Trunk(point, self.student, others)
        self._trunk.check_ways(self.student, others[0], input_shape)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def set_progress(
        self, epoch: Optional[int] = None, iteration: Optional[int] = None
    ) -> None:
        """Tell the schedule how far a training without a runner is.

        Args:
            epoch (int, optional): The epoch, counted from 0. Defaults to
                None; then the schedule may not go by it.
            iteration (int, optional): The iteration since the start of
                training, counted from 0. Defaults to None, likewise.
                Without both, the schedule follows the runner again.

        Raises:
            ValueError: If one is a negative number or no integer.
        """
        self._clock.set(epoch, iteration)

    # A compiled step would take the weight for a constant, and be compiled
    # anew for each of them.
    @torch.compiler.disable
    def _weight(self) -> float:
        if self._schedule is None:
            return 1.0
        return self._schedule(*self._clock.now())

    def train(self, mode: bool = True) -> 'ONE':
        """Set the mode of all branches.

        Args:
            mode (bool): Training or evaluation. Defaults to True.

        Returns:
            ONE: This model.
        """
        super().train(mode)
        # SyncBN replaces modules after they have been hooked.
        self._trunk.attach(self.student, self.branches.values())
        return self

    def forward(
        self,
        inputs: Tensor,
        data_samples: Optional[Sequence] = None,
        mode: str = 'tensor',
    ) -> Any:
        """Train, or run the student or the ensemble.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels. Needed
                with ``mode='loss'``. Defaults to None.
            mode (str): ``'loss'``, ``'tensor'`` or ``'predict'``. Defaults to
                ``'tensor'``.

        Returns:
            dict[str, Tensor], Tensor or list[DataSample]: The loss terms,
            prefixed with ``student.``, ``branch<i>.``, ``ensemble.`` and
            ``distill.``; or what the student, or the ensemble, answers.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if self.predict == 'branch':
            return self.student(inputs, data_samples, mode=mode)
        _, mixture = self.logits(inputs)
        if mode == 'tensor':
            return mixture
        # Its forward pass does nothing.
        head = ClsHead(loss=self.student.head.loss_module)
        return head.predict((mixture,), data_samples)

    def logits(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run all branches, and the trunk once.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.

        Returns:
            tuple[list[Tensor], Tensor]: The logits of the branches and those
            of their mixture, shape ``(B, num_classes)``; the mixture at
            least in float32.
        """
        trunk = self._trunk
        try:
            with trunk.record():
                logits = [self.student(inputs, mode='tensor')]
            shares = self.gate(trunk.feature)
            for index, branch in enumerate(self.branches.values()):
                logits.append(trunk.run(index, branch, inputs))
        finally:
            trunk.clear()
        mixture = sum(
            share[:, None] * one
            for share, one in zip(shares.unbind(1), logits, strict=True)
        )
        return logits, mixture

    def loss(
        self, inputs: Tensor, data_samples: Optional[Sequence] = None
    ) -> dict[str, Tensor]:
        """Run all branches and compute all losses.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels. Defaults
                to None.

        Returns:
            dict[str, Tensor]: The loss terms.

        Raises:
            ValueError: If there are no labels, or some are out of range.
        """
        labels = self._labels(inputs, data_samples)
        logits, mixture = self.logits(inputs)
        names = ['student', *(f'branch{i}' for i in self.branches)]
        losses = {}
        for name, one in [
            *zip(names, logits, strict=True),
            ('ensemble', mixture),
        ]:
            losses[f'{name}.loss'] = self.student.head.loss_module(
                one, labels, avg_factor=len(one)
            )
        target, weight = mixture.detach(), self._weight()
        for number, one in enumerate(logits):
            divergence = self.distill_loss(preds_S=one, preds_T=target)
            losses[f'distill.loss_branch{number}'] = weight * divergence
        return losses

    def _labels(
        self, inputs: Tensor, data_samples: Optional[Sequence]
    ) -> Tensor:
        labels = stack(data_samples, 'gt_label')
        if labels is None:
            # Mixup and its like have scores in the place of labels.
            scores = [sample.get('gt_score') for sample in data_samples or ()]
            if not scores or any(score is None for score in scores):
                raise ValueError(
                    'the batch has no labels, which the branches learn from: '
                    'use a labeled data set'
                )
            return torch.stack(scores).to(inputs.device)
        classes = num_classes(self.student)
        if classes is not None:
            check_label_range(labels, classes)
        return labels.to(inputs.device)


class _Gate(nn.Module):
    """The share of each branch, from what goes into all of them."""

    def __init__(self, channels: int, branches: int, relu: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, branches)
        self.bn = nn.BatchNorm1d(branches)
        self.relu = relu

    def forward(self, feature: Tensor) -> Tensor:
        scores = self.bn(self.fc(pooled(feature)))
        if self.relu:
            scores = scores.relu()
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        return scores.softmax(dim=1)


def _check_shape(input_shape: Sequence[int]) -> None:
    good = (
        isinstance(input_shape, Sequence)
        and len(input_shape) == 3
        and all(type(side) is int and side > 0 for side in input_shape)
    )
    if not good:
        raise ValueError(
            f'input_shape must be the channels, height and width of an '
            f'image, but got {input_shape!r}'
        )
