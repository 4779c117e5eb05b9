"""Mean squared difference of maps at several scales."""

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmkd_plugin.utils.checks import check_number, check_same_shape
from mmkd_plugin.utils.precision import full_precision

from .pooled_maps import check_maps


@full_precision
def hcl_loss(
    preds_S: Tensor, preds_T: Tensor, levels: Sequence[int] = (4, 2, 1)
) -> Tensor:
    r"""Average the mean squared differences of the pooled maps.

    .. math::
        L = \frac{\sum_k 2^{-k} \,\mathrm{mean}\big((P_k f_S -
        P_k f_T)^2\big)}{\sum_k 2^{-k}}

    where :math:`P_0` is the identity and :math:`P_k` the average over the
    ``levels[k - 1]`` x ``levels[k - 1]`` cells of the map. A level that is
    not smaller than the map is left out, and the next one has its weight.

    Args:
        preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
        preds_T (Tensor): Teacher maps, same shape; no gradient flows into
            them.
        levels (Sequence[int]): Cells along a side, falling. Defaults to
            ``(4, 2, 1)``.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the shapes differ, or are not those of maps.
    """
    check_maps(preds_S, preds_T)
    check_same_shape(
        preds_S,
        preds_T,
        hint='; put a ConvConnector on the student side of the mapping',
    )
    if preds_S.numel() == 0:
        return preds_S.sum()
    height, width = preds_S.shape[2:]
    # Pooling is linear, so that the difference alone need be pooled.
    gap = preds_S - preds_T.detach()
    total, weights, weight = gap.square().mean(), 1.0, 1.0
    for level in levels:
        if level >= max(height, width):
            continue
        size = (min(level, height), min(level, width))
        weight /= 2
        weights += weight
        pooled = adaptive_avg_pool2d(gap, size)
        total = total + weight * pooled.square().mean()
    return total / weights


@MODELS.register_module()
class HCLLoss(nn.Module):
    r"""Hierarchical context loss of knowledge review.

    It is one half of the method; the other one is the fusion of the
    student's stages, whose outputs are what is mapped as ``preds_S``. Map
    one instance for each stage.

    Reference:
        Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021,
        https://arxiv.org/abs/2104.09044, section 3.3, with levels and
        weights of the published code. There the sum over the stages has a
        weight between 0.6 and 8 by pair, and a linear warm-up over 20
        epochs, which is ``loss_weight=dict(type='LinearWarmup', ...)`` here.
        Deviation: a map that is not square is pooled to no more cells than
        it has rows and columns.

    Args:
        levels (Sequence[int]): Cells along a side, falling. Defaults to
            ``(4, 2, 1)``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> preds_T = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
        >>> loss = HCLLoss(levels=(1,))
        >>> round(loss(torch.zeros(1, 1, 2, 2), preds_T).item(), 4)
        0.6667
    """

    def __init__(
        self, *, levels: Sequence[int] = (4, 2, 1), loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        good = (
            isinstance(levels, (list, tuple))
            and all(type(n) is int and n > 0 for n in levels)
            and list(levels) == sorted(set(levels), reverse=True)
        )
        if not good:
            raise ValueError(
                f'levels must be positive integers that fall, but got '
                f'{levels!r}'
            )
        self.levels = tuple(levels)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
            preds_T (Tensor): Teacher maps, same shape.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * hcl_loss(preds_S, preds_T, self.levels)
