"""Relational distillation: distances and angles between samples."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from mmkd_plugin.utils.checks import check_flag, check_number
from mmkd_plugin.utils.precision import full_precision

from .sample_rows import sample_rows, unit_rows

# The least squared distance of two samples. The published codes have it, so
# equal samples count in the mean with its root.
_LEAST_SQUARE = 1e-12
# Samples that are nearer than this are one point.
_SHORTEST = 1e-12


def _lengths(rows: Tensor) -> Tensor:
    """Pairwise distances, shape ``(N, N)``."""
    # Differences, not the Gram form: that one cancels on features with a
    # common offset. Its gradient at equal rows is zero, not NaN.
    return torch.cdist(rows, rows, compute_mode='donot_use_mm_for_euclid_dist')


def _distances(lengths: Tensor, squared: bool) -> Tensor:
    """Pairwise distances over their mean, shape ``(N, N)``."""
    count = lengths.shape[0]
    if squared:
        distances = lengths.square().clamp_min(_LEAST_SQUARE)
    else:
        distances = lengths.clamp_min(_LEAST_SQUARE**0.5)
    itself = torch.eye(count, dtype=torch.bool, device=lengths.device)
    distances = distances.masked_fill(itself, 0)
    return distances * (count * (count - 1)) / distances.sum()


def _angles(rows: Tensor, lengths: Tensor) -> Tensor:
    """Cosines of the angles at i between j and k, shape ``(N, N, N)``."""
    # The products of the lines from i to j and to k come from the Gram
    # matrix, as N^2 lines of D numbers cost several times as much. In float64
    # and around the mean, two near samples are not lost in it.
    wide = rows.double()
    wide = wide - wide.mean(dim=0)
    gram = wide @ wide.t()
    apart = gram - gram.diagonal()[:, None]
    products = (gram - apart[:, :, None] - gram[:, None]).to(rows.dtype)
    # A line without a length has no direction: cosine and gradient are 0.
    inverse = lengths.masked_fill(lengths <= _SHORTEST, torch.inf).reciprocal()
    cosines = products * inverse[:, :, None] * inverse[:, None]
    return cosines.clamp(-1, 1)


@full_precision
def rkd_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    squared: bool = False,
    normalize: bool = False,
) -> Tensor:
    r"""Compare the distances and the angles between the samples of a batch.

    .. math::
        L = \frac{w_D}{N^2} \sum_{i,j} \ell_1\big(\psi_D(t_i, t_j),
        \psi_D(s_i, s_j)\big) + \frac{w_A}{N^3} \sum_{i,j,k}
        \ell_1\big(\psi_A(t_i, t_j, t_k), \psi_A(s_i, s_j, s_k)\big)

    where :math:`\psi_D` is the Euclidean distance over the mean distance of
    the :math:`N (N - 1)` pairs, :math:`\psi_A(x_i, x_j, x_k)` the cosine of
    the angle at :math:`x_i`, zero where two of them are one point, and
    :math:`\ell_1` the Huber loss with threshold 1.

    Invariant to rotation, shift and scale of either side. A single sample
    has no relations: the loss is zero, attached to the graph. The angles
    take memory for several times :math:`N^3` numbers.

    Args:
        preds_S (Tensor): Student features, shape ``(N, *)``; what follows
            the batch size is flattened.
        preds_T (Tensor): Teacher features, shape ``(N, *)``, of any other
            size; no gradient flows into them.
        distance_weight (float): Weight of the distances, which are not
            computed where it is 0. Defaults to 25.0.
        angle_weight (float): Weight of the angles, as well. Defaults to
            50.0.
        squared (bool): Relate squared distances. Defaults to False.
        normalize (bool): Bring the features of every sample to length 1
            first. Defaults to False.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the batch sizes differ.
    """
    rows_S, rows_T = sample_rows(preds_S, preds_T)
    total = rows_S[:0].sum()
    if rows_S.shape[0] < 2:
        return total
    if normalize:
        rows_S, rows_T = unit_rows(rows_S), unit_rows(rows_T)
    lengths_S, lengths_T = _lengths(rows_S), _lengths(rows_T)
    if distance_weight:
        total = total + distance_weight * smooth_l1_loss(
            _distances(lengths_S, squared), _distances(lengths_T, squared)
        )
    if angle_weight:
        total = total + angle_weight * smooth_l1_loss(
            _angles(rows_S, lengths_S), _angles(rows_T, lengths_T)
        )
    return total


@MODELS.register_module()
class RKDLoss(nn.Module):
    r"""Relational knowledge distillation of distances and angles.

    The relations are those of the local batch: with several processes, each
    relates its own samples.

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019,
        https://arxiv.org/abs/1904.05068, equations 3 to 9. Weights 25 and 50
        are those of the published CIFAR-100 benchmarks, which add it to the
        cross entropy at the pooled features. Where the paper sums over pairs
        and triplets, the mean is taken, places of equal indices included, as
        these codes do. Two public forms: raw features (default, the formula
        above), and features of length 1, as MMRazor takes them where nothing
        else is said (``normalize=True``); they give other values. Deviation:
        a pair of equal samples has an angle of gradient zero, where the
        published codes have one of up to 1e12.

    Args:
        distance_weight (float): Weight of the distances, not negative.
            Defaults to 25.0.
        angle_weight (float): Weight of the angles, not negative, and not 0
            together with the other one. Defaults to 50.0.
        squared (bool): Relate squared distances, an option of the published
            benchmarks. Defaults to False.
        normalize (bool): Bring the features of every sample to length 1
            first. Defaults to False.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = RKDLoss()
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, -8.0]])
        >>> round(loss(7 * points + 1, points).item(), 4)
        0.0
    """

    def __init__(
        self,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        squared: bool = False,
        normalize: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.distance_weight = check_number(
            'distance_weight', distance_weight, least=0
        )
        self.angle_weight = check_number('angle_weight', angle_weight, least=0)
        if not distance_weight and not angle_weight:
            raise ValueError(
                f'distance_weight or angle_weight must be > 0, but got '
                f'{distance_weight!r} and {angle_weight!r}'
            )
        self.squared = check_flag('squared', squared)
        self.normalize = check_flag('normalize', normalize)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student features, shape ``(N, *)``.
            preds_T (Tensor): Teacher features, shape ``(N, *)``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * rkd_loss(
            preds_S,
            preds_T,
            self.distance_weight,
            self.angle_weight,
            self.squared,
            self.normalize,
        )
