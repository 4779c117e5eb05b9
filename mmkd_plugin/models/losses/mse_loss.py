"""Mean squared difference of features."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

REDUCTIONS = ('mean', 'sum', 'none')


@full_precision
def mse_loss(
    preds_S: Tensor, preds_T: Tensor, reduction: str = 'mean'
) -> Tensor:
    r"""Compute :math:`(f_S - f_T)^2`.

    Args:
        preds_S (Tensor): Student features, any shape, batch first.
        preds_T (Tensor): Teacher features, same shape; no gradient flows
            into them.
        reduction (str): ``'mean'`` over all elements, ``'sum'`` or
            ``'none'``. Defaults to ``'mean'``.

    Returns:
        Tensor: A scalar, or the shape of the inputs; float32, float64 for
        float64.

    Raises:
        ValueError: If the shapes differ.
    """
    check_same_shape(
        preds_S,
        preds_T,
        hint='; put a ConvConnector or LinearConnector on the student side '
        'of the mapping',
    )
    if preds_S.numel() == 0 and reduction == 'mean':
        return preds_S.sum()
    return torch.nn.functional.mse_loss(
        preds_S, preds_T.detach(), reduction=reduction
    )


@MODELS.register_module()
class MSELoss(nn.Module):
    r"""Feature distillation by the mean squared difference.

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015,
        https://arxiv.org/abs/1412.6550, equation 3, which has half of the
        squared distance, and a learned regressor on the student side: that
        is ``loss_weight=0.5`` and a ``ConvConnector``. Here the mean over
        elements, as in the released code of Cheng et al., Explaining
        Knowledge Distillation by Quantifying the Knowledge, CVPR 2020,
        https://arxiv.org/abs/2003.03622, whose students learn the features
        of one layer by nothing else.

    Args:
        reduction (str): ``'mean'``, ``'sum'`` or ``'none'``, see
            :func:`mse_loss`. Defaults to ``'mean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> MSELoss()(torch.zeros(2, 3), 3 * torch.ones(2, 3)).item()
        9.0
    """

    def __init__(
        self, *, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student features, any shape, batch first.
            preds_T (Tensor): Teacher features, same shape.

        Returns:
            Tensor: The loss.
        """
        return self.loss_weight * mse_loss(preds_S, preds_T, self.reduction)
