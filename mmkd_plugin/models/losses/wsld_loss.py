"""Divergence of the soft labels, weighted by what a sample still teaches."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmkd_plugin.utils.checks import (
    check_choice,
    check_labels,
    check_number,
    check_rows,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

from .reduction import REDUCTIONS, reduce_samples
from .softened import SoftenedKL

# What the published code adds to the teacher's cross entropy.
_EPS = 1e-7


@full_precision
def wsld_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    gt_labels: Tensor,
    tau: float = 2.0,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Weight the divergences by the cross entropies with the labels.

    .. math::
        L = \frac{1}{N} \sum_i
            \Big(1 - \exp\frac{\log p_{S,iy}}{-\log p_{T,iy}}\Big)
            \, \tau^2 \, \mathrm{KL}(p^\tau_{T,i} \| p^\tau_{S,i})

    The weight is computed at temperature 1 and is a constant for the
    gradient. It is near 1 where the student is much worse than the teacher,
    and 0 where it is sure of the label.

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C)``, ``C >= 2``.
        preds_T (Tensor): Teacher logits, same shape; no gradient flows into
            them. Classes dropped by ``-inf`` are allowed as in
            :func:`kl_divergence`; a sample whose label the teacher has
            dropped has the weight 0.
        gt_labels (Tensor): Labels, an integer tensor of shape ``(N,)``.
        tau (float): Temperature of the divergence. Defaults to 2.0.
        reduction (str): ``'batchmean'`` averages over the samples, ``'sum'``
            sums, ``'none'`` returns ``(N,)``. Defaults to ``'batchmean'``.

    Returns:
        Tensor: A scalar, or ``(N,)``; float32, float64 for float64.

    Raises:
        ValueError: If shapes or labels do not fit.
    """
    check_same_shape(preds_S, preds_T)
    check_rows(preds_S)
    labels = check_labels(gt_labels, preds_S)
    preds_T = preds_T.detach()
    cost_S, cost_T = (
        cross_entropy(preds, labels, reduction='none')
        for preds in (preds_S.detach(), preds_T)
    )
    weights = -torch.expm1(-cost_S / (cost_T + _EPS))
    # Where both have dropped the label, inf / inf would be NaN.
    weights = weights.masked_fill(cost_T.isinf(), 0)
    per_sample = (tau * tau) * SoftenedKL.apply(preds_S, preds_T, tau, False)
    return reduce_samples(weights * per_sample, reduction)


@MODELS.register_module()
class WSLDLoss(nn.Module):
    r"""Weighted soft labels.

    It is added to the cross entropy with the labels.

    Reference:
        Zhou et al., Rethinking Soft Labels for Knowledge Distillation: A
        Bias-Variance Tradeoff Perspective, ICLR 2021,
        https://arxiv.org/abs/2102.00650. ``tau=2`` and ``loss_weight=2.5`` are
        those of the published code for ImageNet
        (https://github.com/bellymonster/Weighted-Soft-Label-Distillation) and
        of MMRazor's config; a third party's config for CIFAR-100
        (https://github.com/yzd-v/cls_KD) has 4 and 2.25. Deviation: they write
        the cross entropy of the soft labels in the place of the divergence.
        The gradient is the same, and here a student that equals its teacher
        has a loss of 0.

    Args:
        tau (float): Temperature of the divergence. Defaults to 2.0.
        reduction (str): ``'batchmean'``, ``'sum'`` or ``'none'``, see
            :func:`wsld_loss`. Defaults to ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = WSLDLoss(tau=1.0)
        >>> preds_S, preds_T = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        >>> round(loss(preds_S, preds_T, torch.tensor([0])).item(), 4)
        0.0988
    """

    def __init__(
        self,
        *,
        tau: float = 2.0,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
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
        return self.loss_weight * wsld_loss(
            preds_S, preds_T, gt_labels, self.tau, self.reduction
        )
