"""Distillation of who is a neighbour of whom, as probabilities."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number
from mmkd_plugin.utils.precision import full_precision

from .sample_rows import sample_rows, unit_rows

# That of the released code, in the lengths and in the logarithms.
_EPS = 1e-7


def _neighbours(rows: Tensor) -> Tensor:
    """Probabilities of being a neighbour, shape ``(N, N)``, rows sum to 1."""
    units = unit_rows(rows, _EPS)
    # Rounded, the cosine of opposite rows is below -1.
    kernel = (units @ units.t() + 1).clamp_min(0) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)


@full_precision
def pkt_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Compare the probabilities of the samples to be neighbours.

    .. math::
        L = \frac{1}{N^2} \sum_{i,j} q_{ij}^T
        \log \frac{q_{ij}^T + \epsilon}{q_{ij}^S + \epsilon}, \qquad
        q_{ij} = \frac{k(x_i, x_j)}{\sum_m k(x_i, x_m)}, \qquad
        k(a, b) = \frac{\cos(a, b) + 1}{2}

    Invariant to rotation and, but for :math:`\epsilon = 10^{-7}`, to scale
    of either side. A single sample is its only neighbour: the loss is zero,
    attached to the graph.

    Args:
        preds_S (Tensor): Student features, shape ``(N, *)``; what follows
            the batch size is flattened.
        preds_T (Tensor): Teacher features, shape ``(N, *)``, of any other
            size; no gradient flows into them.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the batch sizes differ.
    """
    rows_S, rows_T = sample_rows(preds_S, preds_T)
    if rows_S.shape[0] < 2:
        return rows_S[:0].sum()
    near_S, near_T = _neighbours(rows_S), _neighbours(rows_T)
    gap = (near_T + _EPS).log() - (near_S + _EPS).log()
    return (near_T * gap).mean()


@MODELS.register_module()
class PKTLoss(nn.Module):
    r"""Probabilistic knowledge transfer with the cosine kernel.

    The neighbours are those of the local batch: with several processes, each
    compares its own samples.

    Reference:
        Passalis and Tefas, Learning Deep Representations with Probabilistic
        Knowledge Transfer, ECCV 2018, https://arxiv.org/abs/1803.10837.
        This is the form of the released code and of the published CIFAR-100
        benchmarks, which add it to the cross entropy with
        ``loss_weight=30000`` at the pooled features: a sample is a neighbour
        of itself, and the mean over all pairs is taken, not the sum. The
        paper itself could not be opened.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If the weight is no finite number.

    Examples:
        >>> import torch
        >>> loss = PKTLoss()
        >>> points = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 5.0]])
        >>> round(loss(points, points @ torch.eye(2, 4)).item(), 6)
        0.0
    """

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student features, shape ``(N, *)``.
            preds_T (Tensor): Teacher features, shape ``(N, *)``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * pkt_loss(preds_S, preds_T)
