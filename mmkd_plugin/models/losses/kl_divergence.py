"""Kullback-Leibler divergence of softened class probabilities."""

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

from .reduction import REDUCTIONS, reduce_samples

_REDUCTIONS = (*REDUCTIONS, 'mean')


def soften(
    logits: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Divide logits by the temperature and shift the largest to zero.

    Not for autograd: it works in place, for the forward passes of functions
    that know their gradient.

    Args:
        logits (Tensor): Shape ``(N, C, *)``.
        tau (float): Temperature.

    Returns:
        tuple[Tensor, Tensor, Tensor, Tensor]: The shifted logits and their
        softmax, ``(N, C, *)``, the largest logit before the shift and the
        log of the partition function after it, ``(N, *)``.
    """
    soft = logits / tau
    top = soft.amax(dim=1, keepdim=True)
    prob = soft.sub_(top).softmax(dim=1)
    # As the largest logit is zero now.
    log_partition = -prob.amax(dim=1).log()
    return soft, prob, top.squeeze(1), log_partition


def cross_gap(soft_S: Tensor, soft_T: Tensor, prob_T: Tensor) -> Tensor:
    """Sum the gaps of shifted logits, weighted with the teacher.

    Args:
        soft_S (Tensor): From :func:`soften`, shape ``(N, C, *)``.
        soft_T (Tensor): Likewise; changed in place.
        prob_T (Tensor): Likewise.

    Returns:
        Tensor: Shape ``(N, *)``.
    """
    # Where a class is dropped, 0 * -inf would be NaN.
    gap = soft_T.sub_(soft_S).masked_fill_(prob_T == 0, 0)
    return gap.mul_(prob_T).sum(dim=1)


class _SoftenedKL(torch.autograd.Function):
    """KL divergence over dim 1 with its gradient in closed form.

    That gradient is the difference of two probabilities, which the forward
    pass has at hand: about half the time of a graph of log-softmaxes.
    """

    @staticmethod
    def forward(
        ctx: Any, preds_S: Tensor, preds_T: Tensor, tau: float
    ) -> Tensor:
        soft_S, prob_S, _, log_S = soften(preds_S, tau)
        soft_T, prob_T, _, log_T = soften(preds_T, tau)
        ctx.save_for_backward(preds_S, prob_S, prob_T)
        ctx.tau = tau
        return cross_gap(soft_S, soft_T, prob_T) + (log_S - log_T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        preds_S, prob_S, prob_T = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For a second derivative this has to be a function of the logits.
            prob_S = (preds_S / ctx.tau).softmax(dim=1)
        return (prob_S - prob_T) * (grad / ctx.tau).unsqueeze(1), None, None


@full_precision
def kl_divergence(
    preds_S: Tensor,
    preds_T: Tensor,
    tau: float = 1.0,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Compute :math:`\tau^2 \mathrm{KL}(p_T \| p_S)` of softened logits.

    .. math::
        L = \frac{\tau^2}{N} \sum_i \sum_c p_{T,ic}
            (\log p_{T,ic} - \log p_{S,ic}), \qquad
        p = \mathrm{softmax}(z / \tau)

    A teacher logit of ``-inf`` marks a dropped class: it has probability
    zero in the teacher's target, which is renormalised over the others, and
    contributes exactly zero (not NaN) to the sum. The student may be masked
    alike; where it alone has dropped a class, the divergence is infinite.

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C, *)``.
        preds_T (Tensor): Teacher logits, same shape; no gradient flows into
            them.
        tau (float): Temperature. Defaults to 1.0.
        reduction (str): ``'batchmean'`` sums over all but the batch and
            averages over the batch, ``'mean'`` averages over all elements,
            ``'sum'`` sums, ``'none'`` returns ``(N, *)``, summed over the
            classes alone. Defaults to ``'batchmean'``.

    Returns:
        Tensor: A scalar, or ``(N, *)``; float32, float64 for float64.

    Raises:
        ValueError: If the shapes differ.
    """
    check_same_shape(preds_S, preds_T)
    per_sample = (tau * tau) * _SoftenedKL.apply(
        preds_S, preds_T.detach(), tau
    )
    if reduction == 'mean':
        return per_sample.sum() / max(preds_S.numel(), 1)
    return reduce_samples(per_sample, reduction)


@MODELS.register_module()
class KLDivergence(nn.Module):
    r"""Response distillation by the Kullback-Leibler divergence.

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015,
        https://arxiv.org/abs/1503.02531, section 2. The factor
        :math:`\tau^2` keeps the size of the gradients over temperatures, as
        that section asks. EEIKD uses this loss on masked targets (see
        :class:`ClassDropMask`); that its loss is a KL divergence between the
        outputs is the paper's wording, temperature, factor and mean over
        the batch are inferred (the paper's equations could not be
        obtained).

    Args:
        tau (float): Temperature. Defaults to 1.0.
        reduction (str): ``'batchmean'``, ``'mean'``, ``'sum'`` or
            ``'none'``, see :func:`kl_divergence`. Defaults to
            ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = KLDivergence(tau=4.0)
        >>> preds_S, preds_T = torch.zeros(2, 3), torch.eye(3)[:2]
        >>> round(loss(preds_S, preds_T).item(), 4)
        0.1166
    """

    def __init__(
        self,
        *,
        tau: float = 1.0,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.tau = check_number('tau', tau, above=0)
        self.reduction = check_choice('reduction', reduction, _REDUCTIONS)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student logits, shape ``(N, C, *)``.
            preds_T (Tensor): Teacher logits, same shape.

        Returns:
            Tensor: The loss.
        """
        return self.loss_weight * kl_divergence(
            preds_S, preds_T, self.tau, self.reduction
        )
