"""Distillation of where in its maps a network is active."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number
from mmkd_plugin.utils.precision import full_precision

from .pooled_maps import check_maps, pool_to_smaller


def _attention(maps: Tensor, p: float) -> Tensor:
    """Normalise the mean power over channels, ``(N, H * W)``."""
    power = maps.square() if p == 2 else maps.abs().pow(p)
    attention = power.mean(dim=1).flatten(1)
    # The scale drops out; divided by first, no square overflows.
    top = attention.detach().amax(dim=1, keepdim=True)
    silent = top == 0
    attention = attention / top.masked_fill(silent, 1.0)
    square = attention.square().sum(dim=1, keepdim=True)
    # The root has no finite slope at zero.
    return attention / square.masked_fill(silent, 1.0).sqrt()


@full_precision
def at_loss(preds_S: Tensor, preds_T: Tensor, p: float = 2.0) -> Tensor:
    r"""Compare the attention maps of student and teacher.

    .. math::
        L = \frac{1}{N H W} \sum_n \Big\| \frac{Q_S^n}{\|Q_S^n\|_2} -
        \frac{Q_T^n}{\|Q_T^n\|_2} \Big\|_2^2, \qquad
        Q^n = \frac{1}{C} \sum_c |f_c^n|^p

    A map of zeros has the attention zero everywhere, with a gradient of
    zero.

    Args:
        preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
        preds_T (Tensor): Teacher maps, shape ``(N, C', H', W')``; no
            gradient flows into them. The larger of the two is first averaged
            over the cells of the smaller.
        p (float): Exponent, at least 1. Defaults to 2.0.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the inputs are no maps of one batch.
    """
    check_maps(preds_S, preds_T)
    if preds_S.numel() == 0:
        return preds_S.sum()
    preds_S, preds_T = pool_to_smaller(preds_S, preds_T.detach())
    return torch.nn.functional.mse_loss(
        _attention(preds_S, p), _attention(preds_T, p)
    )


@MODELS.register_module()
class ATLoss(nn.Module):
    r"""Attention transfer.

    Widths may differ, as channels are averaged. The loss does not change
    where a sample's maps are multiplied by a number, nor, with ``p=2``,
    where the channels are rotated.

    Reference:
        Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR
        2017, https://arxiv.org/abs/1612.03928, equation 2. There it is half
        of the norm of the difference, times :math:`\beta`; here, as in the
        published code and in those that follow it, the mean of the squared
        difference, which is what their ``loss_weight=1000`` for each of the
        (three or four) stages belongs to. Map one instance for each stage.

    Args:
        p (float): Exponent, at least 1, see :func:`at_loss`. Defaults to
            2.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> preds_S = torch.tensor([[[[1.0, 0.0]]]])
        >>> ATLoss()(preds_S, 7 * preds_S.flip(3)).item()
        1.0
    """

    def __init__(self, *, p: float = 2.0, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.p = check_number('p', p, least=1)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
            preds_T (Tensor): Teacher maps, shape ``(N, C', H', W')``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * at_loss(preds_S, preds_T, self.p)
