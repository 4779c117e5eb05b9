"""Distillation of the distances between the samples of a batch."""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

SPACES = ('prob', 'logit')
# Below this mean distance a batch counts as one point: relations of equal
# samples are noise, not knowledge.
_COLLAPSED = 1e-6


def _relations(points: Tensor) -> Tensor:
    """Pairwise distances over their mean, shape ``(N, N)``."""
    count = points.shape[0]
    # Differences, not the Gram form: that one cancels on features with a
    # common offset. Its gradient at equal points is zero, not NaN.
    distances = torch.cdist(
        points, points, compute_mode='donot_use_mm_for_euclid_dist'
    )
    mean = distances.sum() / (count * (count - 1))
    # This way round, a mean of NaN stays one and is not taken for a point.
    return torch.where(
        mean <= _COLLAPSED,
        torch.zeros_like(distances),
        distances / mean.clamp_min(_COLLAPSED),
    )


@full_precision
def structured_relation_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    tau: float = 4.0,
    space: str = 'prob',
) -> Tensor:
    r"""Compare the pairwise distances of student and teacher.

    .. math::
        L = \frac{1}{N^2} \sum_{i,j} \ell_1(\psi(t_i)_j, \psi(s_i)_j), \qquad
        \psi(t_i)_j = \frac{\|t_i - t_j\|_2}{\mu_T}, \qquad
        \mu_T = \frac{1}{N (N - 1)} \sum_{i \ne j} \|t_i - t_j\|_2

    with the Huber loss :math:`\ell_1` (threshold 1). The mean distance of
    the student is a part of the function, so it has a gradient.

    A single sample has no relations and two samples always have the relation
    1: the loss is zero, attached to the graph. A batch whose points all
    coincide has the relations 0.

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C)``.
        preds_T (Tensor): Teacher logits, shape ``(N, C')``, ``C' = C`` is
            not needed; no gradient flows into them. Logits of ``-inf``
            (dropped classes) are allowed with ``space='prob'``.
        tau (float): Temperature, used with ``space='prob'``. Defaults to 4.0.
        space (str): What a sample is, the softened probabilities
            (``'prob'``) or the logits (``'logit'``). Defaults to ``'prob'``.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the batch sizes differ.
    """
    check_tensors(preds_S=preds_S, preds_T=preds_T)
    if preds_S.shape[0] != preds_T.shape[0]:
        raise ValueError(
            f'student and teacher must have the same batch size, but got '
            f'{preds_S.shape[0]} and {preds_T.shape[0]}'
        )
    points_S, points_T = preds_S.flatten(1), preds_T.detach().flatten(1)
    if points_S.shape[0] < 2:
        # Not the sum times zero: dropped classes are -inf.
        return points_S[:0].sum()
    if space == 'prob':
        points_S = torch.softmax(points_S / tau, dim=1)
        points_T = torch.softmax(points_T / tau, dim=1)
    return torch.nn.functional.smooth_l1_loss(
        _relations(points_S), _relations(points_T)
    )


def _gather(points: Tensor) -> Tensor:
    """Concatenate over ranks; the gradient of every rank flows back."""
    return torch.cat(dist_nn.all_gather(points.contiguous()))


@MODELS.register_module()
class StructuredRelationLoss(nn.Module):
    r"""Implicit structured knowledge: how the samples of a batch relate.

    Reference:
        Wang et al., Explicit and Implicit Knowledge Distillation via
        Unlabeled Data, ICASSP 2023, https://arxiv.org/abs/2302.08771.
        The paper's wording: a relation :math:`\psi` of the teacher's
        predictions of a mini-batch, the same for the student, compared by
        the Huber loss; the motivation is that the difference of the samples'
        confidence distributions is easy to learn. Reconstruction: the paper's
        equations could not be obtained, and its symbols are those of
        distance-wise RKD (Park et al., Relational Knowledge Distillation,
        CVPR 2019, https://arxiv.org/abs/1904.05068, equations 3 to 6), which
        is what is computed here. Where RKD sums over pairs, the mean is
        taken, diagonal included, as its published code does. Masked softened
        probabilities as the points (``space='prob'``) are our choice: they
        have the same optimum as the KL loss on the same masked target.

    Args:
        space (str): ``'prob'`` or ``'logit'``. Defaults to ``'prob'``.
        tau (float): Temperature of ``space='prob'``; use that of the KL
            loss. Defaults to 4.0.
        gather (bool): Relate the samples of all ranks instead of those of
            the local batch. Under DistributedDataParallel, value and
            gradient are those of one process with the joint batch. All ranks
            must have equal batch sizes. Defaults to False.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range, or, in the first
            forward pass, if ``space='logit'`` meets masked (``-inf``)
            logits.

    Examples:
        >>> import torch
        >>> loss = StructuredRelationLoss(space='logit')
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> loss(7 * points, points).item()
        0.0
    """

    def __init__(
        self,
        *,
        space: str = 'prob',
        tau: float = 4.0,
        gather: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.space = check_choice('space', space, SPACES)
        self.tau = check_number('tau', tau, above=0)
        self.gather = gather
        self.loss_weight = check_number('loss_weight', loss_weight)
        self._seen_input = False

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student logits, shape ``(N, C)``.
            preds_T (Tensor): Teacher logits, shape ``(N, C')``.

        Returns:
            Tensor: The loss, a scalar.
        """
        check_tensors(preds_S=preds_S, preds_T=preds_T)
        # Looked at once: it costs a device synchronisation.
        if not self._seen_input and self.space == 'logit':
            for name, preds in dict(preds_S=preds_S, preds_T=preds_T).items():
                if torch.isneginf(preds).any():
                    raise ValueError(
                        f"StructuredRelationLoss with space='logit' needs "
                        f'unmasked logits: take the ClassDropMask connector '
                        f"off its {name}, or use space='prob'"
                    )
            self._seen_input = True
        if self.gather and dist.is_initialized():
            preds_S = _gather(preds_S)
            with torch.no_grad():
                preds_T = _gather(preds_T)
        return self.loss_weight * structured_relation_loss(
            preds_S, preds_T, self.tau, self.space
        )
