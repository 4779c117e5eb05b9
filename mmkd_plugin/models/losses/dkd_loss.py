"""Decoupled knowledge distillation: target and non-target classes apart."""

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mmkd_plugin.utils.checks import (
    check_choice,
    check_labels,
    check_number,
    check_rows,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

from .reduction import REDUCTIONS, reduce_samples
from .softened import cross_gap, drop_label, soften_


def _soften_rest(logits: Tensor, labels: Tensor, tau: float) -> tuple:
    """Soften the classes but the label's, and get the label's margin.

    The margin ``z_t - logsumexp(others)`` is the logit of 'the target'
    against 'another class'; 1 - p_t would round to 0 for a sure model.
    """
    rest, alone = drop_label(logits, labels)
    soft = rest.div_(tau)
    prob, top, log_partition = soften_(soft)
    target = logits.gather(1, labels).squeeze(1) / tau
    margin = (target - top - log_partition).masked_fill(alone, torch.inf)
    return soft, prob, log_partition, margin


class _DecoupledKL(torch.autograd.Function):
    r"""TCKD and NCKD, without their factors, with the gradient in closed form.

    With the margin :math:`m` and its sigmoid :math:`p_t`,

    .. math::
        \partial \mathrm{TCKD} / \partial z = (p_{t,S} - p_{t,T})
        (e_t - \hat p_S) / \tau, \qquad
        \partial \mathrm{NCKD} / \partial z = (\hat p_S - \hat p_T) / \tau

    where :math:`\hat p` is zero at the target.
    """

    @staticmethod
    def forward(
        ctx: Any, preds_S: Tensor, preds_T: Tensor, labels: Tensor, tau: float
    ) -> tuple[Tensor, Tensor]:
        soft_S, prob_S, log_S, margin_S = _soften_rest(preds_S, labels, tau)
        soft_T, prob_T, log_T, margin_T = _soften_rest(preds_T, labels, tau)
        others = cross_gap(soft_S, soft_T, prob_T) + (log_S - log_T)
        # A teacher without other classes has nothing to say about them.
        others.masked_fill_(margin_T.isposinf(), 0)
        ctx.save_for_backward(
            preds_S, labels, prob_S, prob_T, margin_S, margin_T
        )
        ctx.tau = tau
        target = 0
        for sign in (1, -1):
            prob = (sign * margin_T).sigmoid()
            gap = logsigmoid(sign * margin_T) - logsigmoid(sign * margin_S)
            target = target + (prob * gap).masked_fill(prob == 0, 0)
        return target, others

    @staticmethod
    def backward(ctx: Any, grad_target: Tensor, grad_others: Tensor) -> tuple:
        preds_S, labels, prob_S, prob_T, margin_S, margin_T = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For a second derivative they have to be functions of the logits.
            rest, alone = drop_label(preds_S, labels)
            rest = rest / ctx.tau
            prob_S = rest.softmax(dim=1)
            target = preds_S.gather(1, labels).squeeze(1) / ctx.tau
            margin_S = target - rest.logsumexp(dim=1)
            margin_S = margin_S.masked_fill(alone, torch.inf)
        slope = margin_S.sigmoid() - margin_T.sigmoid()
        at_target = (grad_target * slope / ctx.tau).unsqueeze(1)
        grad_others = grad_others.masked_fill(margin_T.isposinf(), 0)
        at_others = (grad_others / ctx.tau).unsqueeze(1)
        grad = prob_S * (at_others - at_target)
        grad.addcmul_(prob_T, at_others, value=-1)
        return grad.scatter_(1, labels, at_target), None, None, None


@full_precision
def dkd_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    gt_labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    tau: float = 4.0,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Compute :math:`\tau^2 (\alpha\,\mathrm{TCKD} + \beta\,\mathrm{NCKD})`.

    .. math::
        \mathrm{TCKD} = \mathrm{KL}\big((p_t, 1 - p_t)_T \,\|\,
        (p_t, 1 - p_t)_S\big), \qquad
        \mathrm{NCKD} = \mathrm{KL}(\hat p_T \| \hat p_S)

    where :math:`p_t` is the probability of the label's class and
    :math:`\hat p` the softmax over the other classes, both at temperature
    :math:`\tau`. With :math:`\alpha = 1` and :math:`\beta = 1 - p_{t,T}` of
    the sample, this is the KL divergence of all classes.

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C)``, ``C >= 2``.
        preds_T (Tensor): Teacher logits, same shape; no gradient flows into
            them. Classes dropped by ``-inf`` are allowed as in
            :func:`kl_divergence`; where none but the label's is left, NCKD is
            zero.
        gt_labels (Tensor): Labels, an integer tensor of shape ``(N,)``.
        alpha (float): Weight of the target class. Defaults to 1.0.
        beta (float): Weight of the other classes. Defaults to 8.0.
        tau (float): Temperature. Defaults to 4.0.
        reduction (str): ``'batchmean'`` averages over the samples, ``'sum'``
            sums, ``'none'`` returns ``(N,)``. Defaults to ``'batchmean'``.

    Returns:
        Tensor: A scalar, or ``(N,)``; float32, float64 for float64.

    Raises:
        ValueError: If shapes or labels do not fit.
    """
    check_same_shape(preds_S, preds_T)
    check_rows(preds_S)
    labels = check_labels(gt_labels, preds_S).unsqueeze(1)
    target, others = _DecoupledKL.apply(preds_S, preds_T.detach(), labels, tau)
    per_sample = (tau * tau) * (alpha * target + beta * others)
    return reduce_samples(per_sample, reduction)


@MODELS.register_module()
class DKDLoss(nn.Module):
    r"""Decoupled knowledge distillation.

    It is added to the cross entropy with the labels. Its published schedule
    multiplies it by :math:`\min(\mathrm{epoch} / 20, 1)`; here that is
    ``loss_weight=dict(type='LinearWarmup', value=1.0, end=20)`` in the config
    of the distiller.

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022,
        https://arxiv.org/abs/2203.08679, equation 7. Defaults are those of
        the published CIFAR-100 code (which sets beta by pair, 8 where nothing
        else is said); for ImageNet it takes ``alpha=1``, ``beta=0.5``,
        ``tau=1``. Deviation: computed in log space, so that a confident
        wrong student gives a finite loss.

    Args:
        alpha (float): Weight of the target class, not negative. Defaults to
            1.0.
        beta (float): Weight of the other classes, not negative. Defaults to
            8.0.
        tau (float): Temperature. Defaults to 4.0.
        reduction (str): ``'batchmean'``, ``'sum'`` or ``'none'``, see
            :func:`dkd_loss`. Defaults to ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = DKDLoss(beta=2.0, tau=1.0)
        >>> preds_S, preds_T = torch.zeros(2, 3), torch.eye(3)[:2]
        >>> round(loss(preds_S, preds_T, torch.tensor([0, 2])).item(), 4)
        0.1905
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        tau: float = 4.0,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.alpha = check_number('alpha', alpha, least=0)
        self.beta = check_number('beta', beta, least=0)
        self.tau = check_number('tau', tau, above=0)
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student logits, shape ``(N, C)``.
            preds_T (Tensor): Teacher logits, same shape.
            gt_labels (Tensor): Labels, an integer tensor ``(N,)``.

        Returns:
            Tensor: The loss.
        """
        return self.loss_weight * dkd_loss(
            preds_S,
            preds_T,
            gt_labels,
            self.alpha,
            self.beta,
            self.tau,
            self.reduction,
        )
