"""Kullback-Leibler divergence of softened class probabilities."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

from .reduction import REDUCTIONS, reduce_samples
from .softened import SoftenedKL

_REDUCTIONS = (*REDUCTIONS, 'mean')


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
    per_sample = (tau * tau) * SoftenedKL.apply(
        preds_S, preds_T.detach(), tau, False
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
