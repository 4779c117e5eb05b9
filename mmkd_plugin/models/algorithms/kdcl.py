"""Knowledge distillation by collaborative learning."""

from collections.abc import Mapping
from typing import Optional, Union

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmkd_plugin.utils.checks import check_choice
from mmkd_plugin.utils.precision import full_precision

from .best_mixture import best_mixture
from .online_distill import OnlineDistill

TARGETS = ('naive', 'linear', 'min_logit', 'general')
# Of the mean square error, which is added to each student's own.
_RIDGE = 1e-2


def best_student(logits: Tensor, labels: Tensor) -> Tensor:
    """Choose the student with the lowest cross entropy.

    Args:
        logits (Tensor): Logits of K students, shape ``(K, N, C)``.
        labels (Tensor): Class indices, int64, shape ``(N,)``.

    Returns:
        Tensor: 1 for that student, the first one of equals, and 0 for the
        others, float64, shape ``(K,)``. In several processes it is the one
        with the lowest mean over all of their samples, which is the same for
        all.

    Examples:
        >>> best_student(torch.stack([-torch.eye(2), torch.eye(2)]),
        ...              torch.arange(2))
        tensor([0., 1.], dtype=torch.float64)
    """
    totals = torch.stack(
        [
            cross_entropy(z.detach().double(), labels, reduction='sum')
            for z in logits
        ]
    )
    all_reduce(totals, 'sum')
    return torch.zeros_like(totals).scatter_(0, totals.argmin(0, True), 1.0)


def joint_mixture(logits: Tensor, labels: Tensor) -> Tensor:
    """Find :func:`best_mixture` of the samples of all processes.

    Args:
        logits (Tensor): Logits of K students, shape ``(K, N, C)``; all
            processes must have equally many samples.
        labels (Tensor): Class indices, int64, shape ``(N,)``.

    Returns:
        Tensor: The weights, float64, shape ``(K,)``, the same for all.
    """
    if get_world_size() > 1:
        logits = torch.cat(all_gather(logits.detach().contiguous()), dim=1)
        labels = torch.cat(all_gather(labels.contiguous()))
    return best_mixture(logits, labels)


def min_logit_target(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Compute the target :math:`\min_k (z_{kc} - z_{ky})`.

    Args:
        logits (Tensor): Logits of K students, shape ``(K, N, C)``.
        labels (Tensor): Class indices, int64, shape ``(N,)``.

    Returns:
        Tensor: Logits, shape ``(N, C)``, 0 for the class of the label.

    Examples:
        >>> logits = torch.tensor([[[3.0, 1.0, 2.0]], [[5.0, 4.0, 1.0]]])
        >>> min_logit_target(logits, torch.tensor([0]))
        tensor([[ 0., -2., -4.]])
    """
    logits = logits.detach()
    index = labels.view(1, -1, 1).expand(len(logits), -1, 1)
    return (logits - logits.gather(2, index)).amin(dim=0)


def inverse_covariance_weights(covariance: Tensor) -> Tensor:
    r"""Compute :math:`w = C^{-1} 1 / (1^T C^{-1} 1)`.

    These are the weights, with the sum 1, of the linear combination with the
    lowest mean square error; they may be negative. Students that err alike,
    as they do early in training, make :math:`C` nearly singular, and the
    weights large numbers of both signs: hence a hundredth of the mean of the
    diagonal is added to the diagonal, with which two weights stay below 4.1.
    Students that are the same then have the same weight, and so have those
    without errors.

    Args:
        covariance (Tensor): Mean products of the errors of K students, shape
            ``(K, K)``.

    Returns:
        Tensor: The weights, float64, shape ``(K,)``.

    Raises:
        ValueError: If it is no square matrix of finite numbers.

    Examples:
        >>> errors = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> [round(w, 2) for w in inverse_covariance_weights(errors).tolist()]
        [0.75, 0.25]
    """
    if (
        covariance.ndim != 2
        or covariance.shape[0] != covariance.shape[1]
        or not covariance.isfinite().all()
    ):
        raise ValueError(
            f'the covariance must be a square matrix of finite numbers, but '
            f'got {covariance.tolist()}'
        )
    covariance = covariance.double()
    count = len(covariance)
    mean = covariance.diagonal().mean()
    ones = covariance.new_ones(count)
    if mean <= 0:
        return ones / count
    system = covariance / mean + _RIDGE * ones.diag()
    weights = torch.linalg.solve(system, ones)
    return weights / weights.sum()


@full_precision
def _stack(*logits: Tensor) -> Tensor:
    return torch.stack([z.detach() for z in logits])


# Autocast would multiply in half precision.
@full_precision
def _combine(weights: Tensor, logits: Tensor) -> Tensor:
    return torch.tensordot(weights, logits, dims=1)


@MODELS.register_module()
class KDCL(OnlineDistill):
    r"""Collaborative learning: the students make a target for all of them.

    .. math::
        L_i = L_{CE}(p_i, y) + \lambda \tau^2 \mathrm{KL}(t \| p_i)

    with the target :math:`t = \mathrm{softmax}(z / \tau)` of one of

    * ``'naive'``: the logits of the student with the lowest cross entropy of
      the batch;
    * ``'linear'``: the convex combination of the students' logits with the
      lowest cross entropy of the batch, see :func:`best_mixture`;
    * ``'min_logit'``: for each image the minimum over the students, class by
      class, after each one's logit of the label has been subtracted;
    * ``'general'``: the combination of the logits with
      :math:`w = C^{-1} 1 / (1^T C^{-1} 1)`, where C are the mean products of
      the students' errors on held-out images: the differences of their
      probabilities from the labels, summed over the classes. The weights are
      equal in the first epoch, and are measured after each by
      :class:`~mmkd_plugin.engine.hooks.ErrorCovarianceHook`, without which
      nothing can be trained by a runner. They are a buffer,
      ``general_weights``. How a nearly singular C is handled is said in
      :func:`inverse_covariance_weights`.

    No gradient flows into the target. Each student is to see its own
    augmentation of the images: set ``views`` of
    :class:`~mmkd_plugin.models.BatchAugDataPreprocessor` to the number of the
    students.

    In several processes the batch of ``'naive'`` and ``'linear'`` is the
    joint one, and all have the same weights. The loss is a mean over the
    local batch, so that, with equal batches, the gradient is that of the
    joint batch.

    Reference:
        Guo et al., Online Knowledge Distillation via Collaborative Learning,
        CVPR 2020. No text of the paper was at hand: targets and views are
        from recollection and second-hand descriptions, not verified, and so
        are :math:`\tau = 2` and :math:`\lambda = 1`. These descriptions do
        not agree on whether ``'naive'`` chooses for the batch, as here, or
        for each image, and whether ``'general'`` combines logits, as here, or
        probabilities. Third-party codes were found for all targets but the
        last; they disagree on the first in the same way, and many have none
        of the four, but the mean of the logits (``'general'`` before its first
        measurement) or their sum.

    Args:
        students (dict[str, dict | nn.Module]): Configs of the students by
            their names, see :class:`OnlineDistill`.
        target (str): ``'naive'``, ``'linear'``, ``'min_logit'`` or
            ``'general'``. Defaults to ``'min_logit'``.
        peer_loss (dict, optional): Config of another loss between a
            student's logits, ``preds_S``, and the target's, ``preds_T``; its
            ``loss_weight`` may be the config of a schedule. Defaults to None,
            ``dict(type='KLDivergence', tau=2.0)``.
        student_ckpts (dict[str, str], optional): Checkpoints that students
            start from. Defaults to None.
        main_student (str, optional): The student that answers. Defaults to
            None, the first.
        logits (str or dict[str, str]): Module whose output are the logits.
            Defaults to ``'head.fc'``.
        channels_last (bool): Whether the students run in channels-last
            memory. Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: As :class:`OnlineDistill`, or if there is no such target.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, Union[dict, nn.Module]],
        target: str = 'min_logit',
        peer_loss: Optional[dict] = None,
        student_ckpts: Optional[Mapping[str, str]] = None,
        main_student: Optional[str] = None,
        logits: Union[str, Mapping[str, str]] = 'head.fc',
        channels_last: bool = False,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        check_choice('target', target, TARGETS)
        super().__init__(
            students=students,
            peer_loss=peer_loss or dict(type='KLDivergence', tau=2.0),
            student_ckpts=student_ckpts,
            main_student=main_student,
            logits=logits,
            channels_last=channels_last,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.target = target
        self._is_measured = False
        if target == 'general':
            count = len(self.students)
            self.register_buffer(
                'general_weights', torch.full((count,), 1.0 / count)
            )

    @property
    def needs_labels(self) -> bool:
        """bool: Whether the target or the peer loss needs class indices."""
        return self.target != 'general' or super().needs_labels

    def expect_measurements(self) -> None:
        """Promise that :meth:`set_error_covariance` is called in the run."""
        self._is_measured = True

    def check_hooks(self) -> None:
        """Check that somebody measures the errors, if they are needed.

        Raises:
            ValueError: If nobody has promised it.
        """
        if self.target == 'general' and not self._is_measured:
            raise ValueError(
                "target='general' has equal weights until the students' "
                'errors are measured, and nothing does that: put '
                "dict(type='ErrorCovarianceHook', dataloader=...) into "
                'custom_hooks'
            )

    def set_error_covariance(self, covariance: Tensor) -> None:
        """Set the weights of ``target='general'``.

        Args:
            covariance (Tensor): Mean products of the students' errors on
                held-out images, in the order of the students, ``(K, K)``.

        Raises:
            ValueError: If the target is another one, or if there is another
                number of students.
        """
        if self.target != 'general':
            raise ValueError(
                f"errors are measured for target='general', but the target "
                f'is {self.target!r}'
            )
        weights = inverse_covariance_weights(covariance)
        if len(weights) != len(self.students):
            raise ValueError(
                f'the covariance is that of {len(weights)} students, but '
                f'there are {len(self.students)}'
            )
        self.general_weights.copy_(weights)

    def _weights(self, logits: Tensor, labels: Optional[Tensor]) -> Tensor:
        if self.target == 'naive':
            return best_student(logits, labels)
        if self.target == 'linear':
            return joint_mixture(logits, labels)
        hub = MessageHub.get_current_instance()
        if hub.get_info('loop_stage') == 'train':
            self.check_hooks()
        return self.general_weights

    def peer_losses(
        self, logits: dict[str, Tensor], labels: Optional[Tensor]
    ) -> dict[str, Tensor]:
        """Make the target, and compare each student with it.

        Args:
            logits (dict[str, Tensor]): Logits of the students, ``(B, C)``.
            labels (Tensor, optional): Class indices, ``(B,)``.

        Returns:
            dict[str, Tensor]: ``<name>.distill.loss_peer`` for each, and,
            where the target is a combination, ``distill.weight.<name>``.
        """
        entries = {}
        stacked = _stack(*logits.values())
        if self.target == 'min_logit':
            target = min_logit_target(stacked, labels)
        else:
            weights = self._weights(stacked, labels).to(stacked.dtype)
            target = _combine(weights, stacked)
            for name, weight in zip(logits, weights, strict=True):
                entries[f'distill.weight.{name}'] = weight
        scale = self._peer_weight()
        for name, preds_S in logits.items():
            entries[f'{name}.distill.loss_peer'] = scale * self.compare(
                preds_S, target, labels
            )
        return entries
