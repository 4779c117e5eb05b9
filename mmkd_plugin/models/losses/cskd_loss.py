"""Class-wise self-distillation between two images of one class."""

from typing import Optional

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_labels,
    check_number,
    check_rows,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

from .kl_divergence import kl_divergence
from .reduction import REDUCTIONS


def check_pairs(labels: Tensor) -> None:
    """Check that labels are equal two by two.

    Args:
        labels (Tensor): An even number of them.

    Raises:
        ValueError: If they are not.
    """
    wrong = (labels[0::2] != labels[1::2]).nonzero().flatten().tolist()
    if wrong:
        first = 2 * wrong[0]
        raise ValueError(
            f'images 2i and 2i + 1 of the batch must have the same label, '
            f'but got {labels[first].item()} and {labels[first + 1].item()} '
            f'in the first of {len(wrong)} wrong pairs of '
            f'{len(labels) // 2}: use SameClassPairSampler'
        )


@full_precision
def cskd_loss(
    preds_S: Tensor,
    preds_T: Optional[Tensor] = None,
    gt_labels: Optional[Tensor] = None,
    tau: float = 4.0,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Compute :math:`\tau^2 \mathrm{KL}(p(x') \| p(x))`, same classes.

    The batch holds the pairs side by side, as :class:`SameClassPairSampler`
    gives them: :math:`x` at the even positions, its :math:`x'` after it. So
    the batches of several ranks, one after the other, are a batch of pairs
    again. Where :math:`x'` had a forward pass of its own, its logits are
    ``preds_T``.

    Args:
        preds_S (Tensor): Logits of the pairs, shape ``(2N, C)``; with
            ``preds_T`` those of :math:`x` alone, ``(N, C)``.
        preds_T (Tensor, optional): Logits of :math:`x'`, ``(N, C)``. No
            gradient flows into them, nor into the rows of :math:`x'` in
            ``preds_S``. Defaults to None.
        gt_labels (Tensor, optional): Labels of the pairs, an integer tensor
            ``(2N,)``; not needed with ``preds_T``. Whether those of a pair
            are equal is looked at on the CPU alone.
        tau (float): Temperature. Defaults to 4.0.
        reduction (str): ``'batchmean'`` averages over the N pairs, ``'sum'``
            sums, ``'none'`` returns ``(N,)``. Defaults to ``'batchmean'``.

    Returns:
        Tensor: A scalar, or ``(N,)``; float32, float64 for float64.

    Raises:
        ValueError: If shapes or labels do not fit, or if the batch does not
            consist of pairs.
    """
    check_tensors(preds_S=preds_S)
    check_rows(preds_S)
    if preds_T is None:
        labels = check_labels(gt_labels, preds_S)
        if len(preds_S) % 2:
            raise ValueError(
                f'a batch of pairs must have an even size, but got '
                f'{len(preds_S)} images: set an even batch_size'
            )
        if labels.device.type == 'cpu':
            check_pairs(labels)
        preds_S, preds_T = preds_S[0::2], preds_S[1::2]
    return kl_divergence(preds_S, preds_T, tau, reduction)


@MODELS.register_module()
class CSKDLoss(nn.Module):
    r"""CS-KD: an image is to be answered as another one of its class.

    It is added to the cross entropy of :math:`x` with its label, and needs
    :class:`SameClassPairSampler`. It is the mean over the pairs of the local
    batch, so under DistributedDataParallel, with equal batches, it is that
    of the joint batch.

    Reference:
        Yun et al., Regularizing Class-wise Predictions via Self-knowledge
        Distillation, CVPR 2020, https://arxiv.org/abs/2003.13964; defaults
        are those of the published code. That code has a forward pass of its
        own for :math:`x'`, without a graph, whose logits are ``preds_T``: so
        does the algorithm :class:`~mmkd_plugin.models.CSKD`. With the pairs
        in one batch, batch normalisation sees :math:`x` and :math:`x'`
        together.

    Args:
        tau (float): Temperature. Defaults to 4.0.
        reduction (str): ``'batchmean'``, ``'sum'`` or ``'none'``, see
            :func:`cskd_loss`. Defaults to ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = CSKDLoss()
        >>> logits, labels = torch.eye(4), torch.tensor([0, 0, 2, 2])
        >>> round(loss(logits, gt_labels=labels).item(), 4)
        0.2652
        >>> loss(logits[::2], logits[1::2]) == loss(logits, gt_labels=labels)
        tensor(True)
    """

    def __init__(
        self,
        *,
        tau: float = 4.0,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.tau = check_number('tau', tau, above=0)
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        self.loss_weight = check_number('loss_weight', loss_weight)
        self._seen_labels = False

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Optional[Tensor] = None,
        gt_labels: Optional[Tensor] = None,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Logits of the pairs, ``(2N, C)``; with
                ``preds_T`` those of x alone, ``(N, C)``.
            preds_T (Tensor, optional): Logits of x', ``(N, C)``.
            gt_labels (Tensor, optional): Labels of the pairs, an integer
                tensor ``(2N,)``; not needed with ``preds_T``.

        Returns:
            Tensor: The loss.
        """
        loss = self.loss_weight * cskd_loss(
            preds_S, preds_T, gt_labels, self.tau, self.reduction
        )
        # Looked at once: elsewhere than on the CPU it costs a device
        # synchronisation.
        if preds_T is None and not self._seen_labels:
            check_pairs(gt_labels)
            self._seen_labels = True
        return loss
