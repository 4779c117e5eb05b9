"""Distillation of what the channels of a map select."""

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmkd_plugin.utils.checks import check_number
from mmkd_plugin.utils.precision import full_precision

from .pooled_maps import check_maps, pool_to_smaller


def _mean_kernel(one: Tensor, other: Tensor) -> Tensor:
    """Average the squared products of all pairs of channels, ``(N,)``."""
    return (one @ other.mT).square().mean(dim=(1, 2))


@full_precision
def nst_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Compute the squared MMD of the channels, kernel :math:`(a^T b)^2`.

    With the channels :math:`s_i`, :math:`t_j` of a sample, each a vector of
    :math:`H W` numbers of norm 1,

    .. math::
        L = \frac{1}{C_T^2} \sum_{j,j'} (t_j^T t_{j'})^2
        + \frac{1}{C_S^2} \sum_{i,i'} (s_i^T s_{i'})^2
        - \frac{2}{C_S C_T} \sum_{i,j} (s_i^T t_j)^2

    and the mean over the samples. This is :math:`\|S^T S / C_S - T^T T /
    C_T\|_F^2`, which is what is computed where there are few places.

    Args:
        preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
        preds_T (Tensor): Teacher maps, shape ``(N, C', H', W')``; no
            gradient flows into them. The larger of the two is first averaged
            over the cells of the smaller.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the inputs are no maps of one batch.
    """
    check_maps(preds_S, preds_T)
    if preds_S.numel() == 0:
        return preds_S.sum()
    preds_S, preds_T = pool_to_smaller(preds_S, preds_T.detach())
    channels_S = normalize(preds_S.flatten(2), dim=2)
    channels_T = normalize(preds_T.flatten(2), dim=2)
    (_, count_S, places), count_T = channels_S.shape, channels_T.shape[1]
    pairs = count_S**2 + count_T**2 + count_S * count_T
    # Fewer products, and no difference of large numbers.
    if places * (count_S + count_T) <= pairs:
        gap = channels_S.mT @ channels_S / count_S
        gap = gap - channels_T.mT @ channels_T / count_T
        return gap.square().sum(dim=(1, 2)).mean()
    return (
        _mean_kernel(channels_T, channels_T)
        + _mean_kernel(channels_S, channels_S)
        - 2 * _mean_kernel(channels_S, channels_T)
    ).mean()


@MODELS.register_module()
class NSTLoss(nn.Module):
    r"""Neuron selectivity transfer.

    What a channel responds to is the pattern of its places; the two sets of
    patterns are compared as samples of two distributions. Widths may differ.
    The loss does not change where channels are permuted, or multiplied by a
    number other than 0.

    Reference:
        Huang and Wang, Like What You Like: Knowledge Distill via Neuron
        Selectivity Transfer, https://arxiv.org/abs/1707.01219, equations 4
        and 5, with the polynomial kernel (d = 2, c = 0) that its best
        numbers are of; the linear and the Gaussian one are not built. The
        common CIFAR-100 code has ``loss_weight=50`` for each stage.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``loss_weight`` is no finite number.

    Examples:
        >>> import torch
        >>> preds_S = torch.tensor([[[[3.0, 0.0]]]])
        >>> NSTLoss()(preds_S, preds_S.flip(3)).item()
        2.0
    """

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
            preds_T (Tensor): Teacher maps, shape ``(N, C', H', W')``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * nst_loss(preds_S, preds_T)
