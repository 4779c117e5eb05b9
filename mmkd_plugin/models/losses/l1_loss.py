"""Mean absolute difference of features."""

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
def l1_loss(
    preds_S: Tensor, preds_T: Tensor, reduction: str = 'mean'
) -> Tensor:
    r"""Compute :math:`|f_S - f_T|`.

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
    return torch.nn.functional.l1_loss(
        preds_S, preds_T.detach(), reduction=reduction
    )


@MODELS.register_module()
class L1Loss(nn.Module):
    r"""Explicit feature distillation by the mean absolute difference.

    Reference:
        Wang et al., Explicit and Implicit Knowledge Distillation via
        Unlabeled Data, ICASSP 2023, https://arxiv.org/abs/2302.08771. The
        paper's wording: the l1 norm of the difference between teacher and
        student after the first BN layer and at the input of the last linear
        layer. Reconstruction: the mean over elements for each of the two
        terms (a plain sum would weigh a 64x32x32 map 128 to 1 against a
        vector of 512); the paper's equations could not be obtained. Use one
        instance for each of the two places.

    Args:
        reduction (str): ``'mean'``, ``'sum'`` or ``'none'``, see
            :func:`l1_loss`. Defaults to ``'mean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> L1Loss()(torch.zeros(2, 3), torch.ones(2, 3)).item()
        1.0
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
        return self.loss_weight * l1_loss(preds_S, preds_T, self.reduction)
