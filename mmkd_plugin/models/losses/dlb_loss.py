"""Self-distillation from what the student said one step ago."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_rows,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

from .kl_divergence import kl_divergence
from .reduction import REDUCTIONS


@full_precision
def dlb_loss(
    preds_S: Tensor,
    past_logits: Tensor,
    tau: float = 3.0,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Compute :math:`\tau^2 \mathrm{KL}(p^{past} \| p)` of images seen again.

    Args:
        preds_S (Tensor): Student logits of the batch, shape ``(N, C)``, which
            begins with the images of the step before.
        past_logits (Tensor): The student's logits of these in that step,
            shape ``(P, C)``, ``P <= N``; no gradient flows into them.
        tau (float): Temperature. Defaults to 3.0.
        reduction (str): ``'batchmean'`` averages over the P images, ``'sum'``
            sums, ``'none'`` returns ``(P,)``. Defaults to ``'batchmean'``.

    Returns:
        Tensor: A scalar, zero where P is 0, or ``(P,)``; float32, float64
        for float64.

    Raises:
        ValueError: If the shapes do not fit.
    """
    check_tensors(preds_S=preds_S, past_logits=past_logits)
    check_rows(preds_S)
    check_rows(past_logits)
    again = len(past_logits)
    if again > len(preds_S) or past_logits.shape[1] != preds_S.shape[1]:
        raise ValueError(
            f'past_logits must have the shape (P, C) with P <= N, for logits '
            f'(N, C) of {tuple(preds_S.shape)}, but got '
            f'{tuple(past_logits.shape)}'
        )
    return kl_divergence(preds_S[:again], past_logits, tau, reduction)


@MODELS.register_module()
class DLBLoss(nn.Module):
    r"""DLB: answer images as in the step before, in which they were, too.

    It is added to the cross entropy of the whole batch, and belongs to the
    algorithm :class:`~mmkd_plugin.models.DLB`, which has the past logits::

        loss_dlb=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            past_logits=dict(from_batch='past_logits'))

    Under DistributedDataParallel, with equal batches, the mean over the P
    images of the ranks is that of the joint batch.

    Reference:
        Shen et al., Self-Distillation from the Last Mini-Batch for
        Consistency Regularization, CVPR 2022,
        https://arxiv.org/abs/2203.16172. Its weight :math:`\alpha` is
        ``loss_weight``. Formula and mean are those of the published code
        (https://github.com/Meta-knowledge-Lab/DLB), whose options have no
        defaults; :math:`\tau = 3` and :math:`\alpha = 1` are from
        recollection, not verified.

    Args:
        tau (float): Temperature. Defaults to 3.0.
        reduction (str): ``'batchmean'``, ``'sum'`` or ``'none'``, see
            :func:`dlb_loss`. Defaults to ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> preds_S, past = torch.eye(4), torch.eye(4)[1:2]
        >>> round(DLBLoss()(preds_S, past).item(), 4)
        0.27
        >>> DLBLoss()(preds_S, past[:0]).item()
        0.0
    """

    def __init__(
        self,
        *,
        tau: float = 3.0,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.tau = check_number('tau', tau, above=0)
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, past_logits: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student logits, shape ``(N, C)``.
            past_logits (Tensor): Those of the first P images in the step
                before, ``(P, C)``.

        Returns:
            Tensor: The loss.
        """
        return self.loss_weight * dlb_loss(
            preds_S, past_logits, self.tau, self.reduction
        )
