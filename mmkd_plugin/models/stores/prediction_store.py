"""The last predictions of every sample of a data set."""

import torch
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_count,
    check_labels,
    check_rows,
    check_tensors,
)

from .sample_index import checked_index, last_places, of_all_ranks


class PredictionStore(nn.Module):
    """Keeps the last probabilities of every sample, by its index.

    All of it are buffers, so it is in the checkpoint of the module that it
    belongs to, and a resumed run reads exactly what the uninterrupted one
    does. It takes ``4 * num_samples * num_classes`` bytes.

    On several ranks every rank has the whole store: a sample is seen by
    another rank in the next epoch. :meth:`write` exchanges what the ranks
    write, so their batches must have the same size.

    Args:
        num_samples (int): Number of samples of the data set.
        num_classes (int): Number of classes.

    Raises:
        ValueError: If one is no positive integer.

    Attributes:
        probs (Tensor): float32, shape ``(num_samples, num_classes)``; zero
            for samples that have not been seen.
        seen (Tensor): bool, shape ``(num_samples,)``.

    Examples:
        >>> import torch
        >>> store = PredictionStore(num_samples=5, num_classes=2)
        >>> store.write(torch.tensor([3]), torch.zeros(1, 2))
        >>> store.read(torch.tensor([1, 3]), torch.tensor([1, 1]))
        tensor([[0.0000, 1.0000],
                [0.5000, 0.5000]])
    """

    probs: Tensor
    seen: Tensor

    def __init__(self, num_samples: int, num_classes: int) -> None:
        super().__init__()
        check_count('num_samples', num_samples)
        check_count('num_classes', num_classes, least=2)
        self.register_buffer('probs', torch.zeros(num_samples, num_classes))
        self.register_buffer(
            'seen', torch.zeros(num_samples, dtype=torch.bool)
        )

    def read(self, sample_idx: Tensor, gt_labels: Tensor) -> Tensor:
        """Get the last probabilities of samples.

        Args:
            sample_idx (Tensor): Positions in the data set, an integer tensor
                of shape ``(B,)``.
            gt_labels (Tensor): Labels, likewise.

        Returns:
            Tensor: float32, shape ``(B, num_classes)``; the one-hot label
            for samples that have not been seen.

        Raises:
            ValueError: If indices or labels do not fit.
        """
        index = checked_index(sample_idx, len(self.probs))
        found = self.probs[index]
        if index.shape != gt_labels.shape:
            raise ValueError(
                f'one label a sample is needed, but got {len(index)} samples '
                f'and labels of shape {tuple(gt_labels.shape)}'
            )
        labels = check_labels(gt_labels, found).unsqueeze(1)
        one_hot = torch.zeros_like(found).scatter_(1, labels, 1.0)
        return torch.where(self.seen[index].unsqueeze(1), found, one_hot)

    @torch.no_grad()
    def write(self, sample_idx: Tensor, logits: Tensor) -> None:
        """Keep the probabilities of samples, on all ranks.

        Args:
            sample_idx (Tensor): Positions in the data set, an integer tensor
                of shape ``(B,)``. Of an index that stands there more than
                once, the last row is kept, that of the last rank.
            logits (Tensor): Shape ``(B, num_classes)``, any float dtype; the
                softmax is taken in float32.

        Raises:
            ValueError: If indices or logits do not fit.
        """
        index = checked_index(sample_idx, len(self.probs))
        check_tensors(logits=logits)
        check_rows(logits)
        wanted = (len(index), self.probs.shape[1])
        if logits.shape != wanted:
            raise ValueError(
                f'logits must have the shape {wanted}, but got '
                f'{tuple(logits.shape)}'
            )
        probs = torch.softmax(logits.float(), dim=1)
        index = of_all_ranks(index)
        probs = of_all_ranks(probs)[last_places(index)]
        self.probs[index] = probs.to(self.probs.dtype)
        self.seen[index] = True
