"""From one value a sample to what a loss returns."""

from torch import Tensor

REDUCTIONS = ('batchmean', 'sum', 'none')


def reduce_samples(losses: Tensor, reduction: str) -> Tensor:
    """Reduce the losses of the samples of a batch.

    Args:
        losses (Tensor): Shape ``(N, *)``.
        reduction (str): ``'batchmean'`` sums and divides by N, ``'sum'``
            sums, ``'none'`` returns the losses as they are.

    Returns:
        Tensor: A scalar, zero for an empty batch, or ``(N, *)``.
    """
    if reduction == 'none':
        return losses
    total = losses.sum()
    if reduction == 'batchmean':
        return total / max(losses.shape[0], 1)
    return total
