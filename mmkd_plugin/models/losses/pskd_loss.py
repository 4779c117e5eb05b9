"""Progressive self-distillation: learn from one's own past predictions."""

from typing import Optional, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.models.schedules.progress import Clock
from mmkd_plugin.models.schedules.scheduled_loss import build_schedule
from mmkd_plugin.utils.checks import (
    check_choice,
    check_labels,
    check_number,
    check_rows,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

from .reduction import REDUCTIONS, reduce_samples

# Half precision rounds a probability by up to 0.4 percent.
_ROUNDING = 0.01


def _check_probabilities(probs: Tensor, like: Tensor) -> None:
    """Check shape and, on the CPU alone, values of past predictions.

    Raises:
        ValueError: If they are no probabilities of the batch.
    """
    check_tensors(past_probs=probs)
    if probs.shape != like.shape:
        raise ValueError(
            f'past_probs must have the shape of the logits, '
            f'{tuple(like.shape)}, but got {tuple(probs.shape)}'
        )
    if probs.device.type != 'cpu' or not probs.numel():
        return
    totals = probs.sum(dim=1)
    # This way round, NaN passes: a run that has diverged shows in the loss.
    if (probs < 0).any() or ((totals - 1).abs() > _ROUNDING).any():
        raise ValueError(
            f'past_probs must be probabilities that sum to 1, but got values '
            f'from {probs.min().item():.6g} to {probs.max().item():.6g} and '
            f'sums from {totals.min().item():.6g} to '
            f'{totals.max().item():.6g}: take the softmax of logits'
        )


@full_precision
def pskd_loss(
    preds_S: Tensor,
    past_probs: Tensor,
    gt_labels: Tensor,
    alpha: float = 0.8,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Compute the cross entropy with labels and past predictions.

    .. math::
        L = -\sum_c \big((1 - \alpha) y_c + \alpha p^{past}_c\big) \log p_c

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C)``, ``C >= 2``.
        past_probs (Tensor): Probabilities that the student gave to the same
            images before, same shape; no gradient flows into them. Where
            there are none, the one-hot label.
        gt_labels (Tensor): Labels, an integer tensor of shape ``(N,)``.
        alpha (float): Share of the past. Defaults to 0.8.
        reduction (str): ``'batchmean'`` averages over the samples, ``'sum'``
            sums, ``'none'`` returns ``(N,)``. Defaults to ``'batchmean'``.

    Returns:
        Tensor: A scalar, or ``(N,)``; float32, float64 for float64.

    Raises:
        ValueError: If shapes, labels or probabilities do not fit.
    """
    check_tensors(preds_S=preds_S)
    check_rows(preds_S)
    labels = check_labels(gt_labels, preds_S).unsqueeze(1)
    _check_probabilities(past_probs, preds_S)
    target = alpha * past_probs.detach().to(preds_S.dtype)
    one_hot = torch.zeros_like(target).scatter_(1, labels, 1 - alpha)
    per_sample = torch.nn.functional.cross_entropy(
        preds_S, target + one_hot, reduction='none'
    )
    return reduce_samples(per_sample, reduction)


@MODELS.register_module()
class PSKDLoss(nn.Module):
    r"""PS-KD: labels softened by what the student said an epoch ago.

    It holds the cross entropy with the labels already: the student's own
    loss is to be left out (``calculate_student_loss=False``). The algorithm
    :class:`~mmkd_plugin.models.PSKD` keeps the past.

    Reference:
        Kim et al., Self-Knowledge Distillation with Progressive Refinement
        of Targets, ICCV 2021, https://arxiv.org/abs/2006.12000. Published
        are a share of 0.8 at the end of the training, which grows linearly,
        :math:`\alpha_t = 0.8 (e + 1) / E` in epoch :math:`e` of :math:`E`
        (counted from 0), and one-hot labels in the first epoch:
        ``alpha=dict(type='LinearRamp', start=0.0, stop=0.8, end=E)``.

    Args:
        alpha (float or dict): Share of the past, in [0, 1], or the config of
            a schedule of it, which goes by the running training. Defaults to
            0.8.
        reduction (str): ``'batchmean'``, ``'sum'`` or ``'none'``, see
            :func:`pskd_loss`. Defaults to ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> preds_S, labels = torch.eye(3)[:2], torch.tensor([0, 2])
        >>> past = torch.full((2, 3), 1 / 3)
        >>> round(PSKDLoss(alpha=0.3)(preds_S, past, labels).item(), 4)
        1.1014
    """

    # Looked at by the algorithm: the student's own loss would be another one.
    holds_cross_entropy = True

    def __init__(
        self,
        *,
        alpha: Union[float, dict] = 0.8,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if isinstance(alpha, dict):
            self.alpha = build_schedule('alpha', alpha)
        else:
            self.alpha = check_number('alpha', alpha, least=0, most=1)
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        self.loss_weight = check_number('loss_weight', loss_weight)
        self._clock = Clock()

    def set_progress(
        self, epoch: Optional[int] = None, iteration: Optional[int] = None
    ) -> None:
        """Tell a schedule of ``alpha`` how far a training without runner is.

        The distiller's method of this name calls it.

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

    # A compiled step would be compiled anew for each time.
    @torch.compiler.disable
    def _share(self) -> float:
        if callable(self.alpha):
            return self.alpha(*self._clock.now())
        return self.alpha

    def forward(
        self,
        preds_S: Tensor,
        past_probs: Tensor,
        gt_labels: Tensor,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student logits, shape ``(N, C)``.
            past_probs (Tensor): Past probabilities, same shape.
            gt_labels (Tensor): Labels, an integer tensor ``(N,)``.

        Returns:
            Tensor: The loss.
        """
        alpha = check_number('alpha', self._share(), least=0, most=1)
        return self.loss_weight * pskd_loss(
            preds_S, past_probs, gt_labels, alpha, self.reduction
        )
