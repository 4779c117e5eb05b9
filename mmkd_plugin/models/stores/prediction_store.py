"""The last predictions of every sample of a data set."""

import torch
from mmengine import dist
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_count,
    check_labels,
    check_rows,
    check_tensors,
)


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
        index = self._checked(sample_idx)
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
                once, one row is kept.
            logits (Tensor): Shape ``(B, num_classes)``, any float dtype; the
                softmax is taken in float32.

        Raises:
            ValueError: If indices or logits do not fit.
        """
        index = self._checked(sample_idx)
        check_tensors(logits=logits)
        check_rows(logits)
        wanted = (len(index), self.probs.shape[1])
        if logits.shape != wanted:
            raise ValueError(
                f'logits must have the shape {wanted}, but got '
                f'{tuple(logits.shape)}'
            )
        probs = torch.softmax(logits.float(), dim=1)
        if dist.is_distributed():
            index = torch.cat(dist.all_gather(index.contiguous()))
            probs = torch.cat(dist.all_gather(probs.contiguous()))
        self.probs[index] = probs.to(self.probs.dtype)
        self.seen[index] = True

    def _checked(self, sample_idx: Tensor) -> Tensor:
        check_tensors(sample_idx=sample_idx)
        if (
            sample_idx.is_floating_point()
            or sample_idx.dtype == torch.bool
            or sample_idx.dim() != 1
        ):
            raise ValueError(
                f'sample_idx must be integers of shape (B,), but got '
                f'{sample_idx.dtype} of shape {tuple(sample_idx.shape)}'
            )
        # On the CPU alone: elsewhere this would wait for the device.
        if sample_idx.numel() and sample_idx.device.type == 'cpu':
            lowest, highest = sample_idx.aminmax()
            count = len(self.probs)
            if lowest < 0 or highest >= count:
                bad = lowest if lowest < 0 else highest
                raise ValueError(
                    f'sample_idx must be in [0, {count}), the samples of the '
                    f'store, but got {bad.item()}'
                )
        return sample_idx.long()
