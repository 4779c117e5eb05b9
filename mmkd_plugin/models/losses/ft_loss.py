"""Distance of the factors of student and teacher."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

from .sample_rows import sample_rows, unit_rows

_DISTANCES = ('l1', 'squared')


@full_precision
def ft_loss(preds_S: Tensor, preds_T: Tensor, distance: str = 'l1') -> Tensor:
    r"""Average the distances of the normalised factors.

    .. math::
        L = \frac{1}{ND} \sum_i \Big\|
            \frac{F_{S,i}}{\|F_{S,i}\|_2} - \frac{F_{T,i}}{\|F_{T,i}\|_2}
            \Big\|_p^p

    with the factor of a sample as one vector of :math:`D` numbers. A factor
    of zeros stays zero.

    Args:
        preds_S (Tensor): Student factors, shape ``(N, *)``.
        preds_T (Tensor): Teacher factors, same shape; no gradient flows into
            them.
        distance (str): ``'l1'`` (:math:`p = 1`) or ``'squared'``
            (:math:`p = 2`). Defaults to ``'l1'``.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the shapes differ.
    """
    check_same_shape(
        preds_S,
        preds_T,
        hint='; put a TranslatorConnector on the student side of the mapping '
        'and a ParaphraserConnector on the teacher side, and a PoolConnector '
        'in front of the one whose map is larger',
    )
    rows_S, rows_T = sample_rows(preds_S, preds_T)
    gap = unit_rows(rows_S) - unit_rows(rows_T)
    terms = gap.abs() if distance == 'l1' else gap.square()
    return terms.sum() / max(terms.numel(), 1)


@MODELS.register_module()
class FTLoss(nn.Module):
    r"""Factor transfer.

    The factors are those of :class:`TranslatorConnector` and of a frozen
    :class:`ParaphraserConnector`; see the latter for both stages.

    Reference:
        Kim et al., Paraphrasing Complex Network: Network Compression via
        Factor Transfer, NeurIPS 2018, https://arxiv.org/abs/1802.04977,
        section 3.2. As in the released code
        (https://github.com/Jangho-Kim/Factor-Transfer-pytorch) and in
        MMRazor, the mean over all elements and the L1 distance. The weight
        of the former is 500, MMRazor's config has 1. RepDistiller's loss of
        that name is another one, on the mean square of a factor over its
        channels; its weight of 200 does not belong here.

    Args:
        distance (str): ``'l1'`` or ``'squared'``, see :func:`ft_loss`.
            Defaults to ``'l1'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> preds_S, preds_T = torch.eye(2), 3 * torch.eye(2).flip(1)
        >>> FTLoss()(preds_S, preds_T).item()
        1.0
    """

    def __init__(
        self, *, distance: str = 'l1', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.distance = check_choice('distance', distance, _DISTANCES)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student factors, shape ``(N, *)``.
            preds_T (Tensor): Teacher factors, same shape.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * ft_loss(preds_S, preds_T, self.distance)
