"""Normalised knowledge distillation: soft target and normalised rest."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_flag,
    check_labels,
    check_number,
    check_rows,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

from .reduction import REDUCTIONS, reduce_samples
from .softened import SoftenedKL, drop_label


@full_precision
def nkd_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    gt_labels: Tensor,
    gamma: float = 1.5,
    tau: float = 1.0,
    mask_target: bool = True,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Compute the cross entropies of the target and of the other classes.

    .. math::
        L = -p_{T,y} \log p_{S,y}
            - \gamma \tau^2 \sum_{k \ne y} \hat p_{T,k} \log \hat p_{S,k}

    with :math:`p` the softmax at temperature 1 and :math:`\hat p` the
    softmax over all classes but the label's at temperature :math:`\tau`. With
    ``mask_target=False`` the second sum and its softmax run over all classes.

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C)``, ``C >= 2``.
        preds_T (Tensor): Teacher logits, same shape; no gradient flows into
            them. Classes dropped by ``-inf`` are allowed as in
            :func:`kl_divergence`; where none but the label's is left, the
            second term is zero.
        gt_labels (Tensor): Labels, an integer tensor of shape ``(N,)``.
        gamma (float): Weight of the second term. Defaults to 1.5.
        tau (float): Temperature of the second term. Defaults to 1.0.
        mask_target (bool): Whether the label's class is left out of the
            second term. Defaults to True.
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
    preds_T = preds_T.detach()
    log_S = torch.log_softmax(preds_S, dim=1).gather(1, labels).squeeze(1)
    prob_T = torch.softmax(preds_T, dim=1).gather(1, labels).squeeze(1)
    # Where both have dropped the target, 0 * -inf would be NaN.
    nothing = (prob_T == 0) & log_S.isneginf()
    target = prob_T * log_S.masked_fill(nothing, 0)
    if mask_target:
        preds_S, _ = drop_label(preds_S, labels)
        preds_T, alone = drop_label(preds_T, labels)
    others = SoftenedKL.apply(preds_S, preds_T, tau, True)
    if mask_target:
        # A teacher without other classes has nothing to say about them.
        others = others.masked_fill(alone, 0)
    per_sample = (gamma * tau * tau) * others - target
    return reduce_samples(per_sample, reduction)


@MODELS.register_module()
class NKDLoss(nn.Module):
    r"""Normalised knowledge distillation.

    It is added to the cross entropy with the labels.

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge
        Distillation: A Unified Approach with Normalized Loss and Customized
        Soft Labels, ICCV 2023, https://arxiv.org/abs/2303.13005, equation 5.
        Defaults are its values for ImageNet; for CIFAR-100 its code takes
        ``gamma=3.5``, ``tau=3``. The code published with SDD
        (https://github.com/shicaiwei123/SDD-CVPR2024) has a mask that is true
        everywhere, so the label's class stays in the second term: its rows
        "NKD" and "SD-NKD" are those of ``mask_target=False``.

    Args:
        gamma (float): Weight of the second term, not negative. Defaults to
            1.5.
        tau (float): Temperature of the second term. Defaults to 1.0.
        mask_target (bool): Whether the label's class is left out of the
            second term. Defaults to True.
        reduction (str): ``'batchmean'``, ``'sum'`` or ``'none'``, see
            :func:`nkd_loss`. Defaults to ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = NKDLoss(gamma=1.0)
        >>> preds_S, preds_T = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> round(loss(preds_S, preds_T, torch.tensor([0, 2])).item(), 4)
        1.0594
    """

    def __init__(
        self,
        *,
        gamma: float = 1.5,
        tau: float = 1.0,
        mask_target: bool = True,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.gamma = check_number('gamma', gamma, least=0)
        self.tau = check_number('tau', tau, above=0)
        self.mask_target = check_flag('mask_target', mask_target)
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
        return self.loss_weight * nkd_loss(
            preds_S,
            preds_T,
            gt_labels,
            self.gamma,
            self.tau,
            self.mask_target,
            self.reduction,
        )
