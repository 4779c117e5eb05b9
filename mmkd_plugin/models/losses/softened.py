"""What the losses on softened probabilities share, with known gradients.

Not for autograd, unless said so: the functions work in place, in the forward
passes of functions that know their gradient. That takes about half the time of
a graph of log-softmaxes.
"""

from typing import Any

import torch
from torch import Tensor


def soften_(soft: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shift the largest logit to zero, in place, and take the softmax.

    Args:
        soft (Tensor): Logits over the temperature, shape ``(N, C, *)``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The softmax, ``(N, C, *)``, the largest
        logit before the shift and the log of the partition function after
        it, ``(N, *)``.
    """
    top = soft.amax(dim=1, keepdim=True)
    prob = soft.sub_(top).softmax(dim=1)
    # As the largest logit is zero now.
    log_partition = -prob.amax(dim=1).log()
    return prob, top.squeeze(1), log_partition


def cross_gap(soft_S: Tensor, soft_T: Tensor, prob_T: Tensor) -> Tensor:
    """Sum the gaps of shifted logits, weighted with the teacher.

    Args:
        soft_S (Tensor): After :func:`soften_`, shape ``(N, C, *)``.
        soft_T (Tensor): Likewise; changed in place.
        prob_T (Tensor): The softmax of the latter.

    Returns:
        Tensor: Shape ``(N, *)``.
    """
    # 0 * inf where a class is dropped: nothing, unless the student alone has
    # dropped it. A NaN of the input is in the partition functions, too.
    products = soft_T.sub_(soft_S).mul_(prob_T)
    return products.nan_to_num_(nan=0, posinf=torch.inf).sum(dim=1)


def drop_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the class of the label; for autograd, too.

    Args:
        logits (Tensor): Shape ``(N, C)``.
        labels (Tensor): int64, shape ``(N, 1)``.

    Returns:
        tuple[Tensor, Tensor]: The logits with ``-inf`` at the label, and a
        bool ``(N,)``, True where no other class was left: there the label
        stays, so that softmaxes are finite.
    """
    rest = logits.scatter(1, labels, -torch.inf)
    alone = rest.detach().amax(dim=1, keepdim=True).isneginf()
    kept = torch.where(alone, logits.gather(1, labels), -torch.inf)
    return rest.scatter_(1, labels, kept), alone.squeeze(1)


class SoftenedKL(torch.autograd.Function):
    """KL divergence, or cross entropy, with its gradient in closed form.

    For both, that gradient is the difference of the two probabilities, which
    the forward pass has at hand. Takes the logits of student and teacher,
    shape ``(N, C, *)``, the temperature, and whether the teacher's entropy is
    left in (the cross entropy) or not; returns ``(N, *)``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        preds_S: Tensor,
        preds_T: Tensor,
        tau: float,
        with_entropy: bool,
    ) -> Tensor:
        soft_S, soft_T = preds_S / tau, preds_T / tau
        prob_S, _, log_S = soften_(soft_S)
        prob_T, _, log_T = soften_(soft_T)
        ctx.save_for_backward(preds_S, prob_S, prob_T)
        ctx.tau = tau
        if with_entropy:
            products = prob_T * soft_T.nan_to_num(nan=torch.nan, neginf=0)
            entropy = log_T - products.sum(dim=1)
        divergence = cross_gap(soft_S, soft_T, prob_T) + (log_S - log_T)
        return divergence + entropy if with_entropy else divergence

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        preds_S, prob_S, prob_T = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For a second derivative this has to be a function of the logits.
            prob_S = (preds_S / ctx.tau).softmax(dim=1)
        scale = (grad / ctx.tau).unsqueeze(1)
        return (prob_S - prob_T).mul_(scale), None, None, None
