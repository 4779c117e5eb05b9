"""The predictions of the last batch."""

from typing import Any

import torch
from mmengine.dist import get_dist_info
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_count, check_rows, check_tensors

from .sample_index import of_all_ranks

_NOTHING = -1


class LastBatchStore(nn.Module):
    """Keeps the logits of the new images of the last batch.

    All of it are buffers, so it is in the checkpoint of the module that it
    belongs to. Every rank has batches of its own, and reads what itself has
    written; yet all of them hold the rows of all ranks, since it is rank 0
    that writes checkpoints, and since mmengine's ``SyncBuffersHook`` averages
    buffers over the ranks. :meth:`write` exchanges the rows, so the ranks
    must write equally many. In a run that goes on with another number of
    ranks or another size of batch, it starts empty.

    Args:
        batch_size (int): How many rows a rank writes at most.
        num_classes (int): Number of classes.

    Raises:
        ValueError: If one is no positive integer.

    Attributes:
        logits (Tensor): float32, shape ``(ranks * batch_size,
            num_classes)``.
        sample_idx (Tensor): int64, shape ``(ranks * batch_size,)``; -1 for
            rows that hold nothing.

    Examples:
        >>> import torch
        >>> store = LastBatchStore(batch_size=2, num_classes=3)
        >>> store.write(torch.tensor([7, 5]), torch.eye(3)[:2])
        >>> store.read(torch.tensor([7, 5, 1, 2]))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
        >>> store.read(torch.tensor([5, 7, 1, 2]))
        tensor([], size=(0, 3))
    """

    logits: Tensor
    sample_idx: Tensor

    def __init__(self, batch_size: int, num_classes: int) -> None:
        super().__init__()
        self.batch_size = check_count('batch_size', batch_size)
        check_count('num_classes', num_classes, least=2)
        self.rank, ranks = get_dist_info()
        rows = ranks * batch_size
        self.register_buffer('logits', torch.zeros(rows, num_classes))
        self.register_buffer('sample_idx', torch.full((rows,), _NOTHING))
        self._forget_copy()

    def _forget_copy(self) -> None:
        # Of this rank's indices, on the CPU: to compare them with those of
        # a batch there never waits for the device.
        self._own_idx = None

    @property
    def own_idx(self) -> Tensor:
        """Tensor: The indices that this rank has written, on the CPU."""
        if self._own_idx is None:
            start = self.rank * self.batch_size
            rows = self.sample_idx[start : start + self.batch_size].cpu()
            self._own_idx = rows[rows != _NOTHING]
        return self._own_idx

    def read(self, sample_idx: Tensor) -> Tensor:
        """Get the logits of the images with which a batch begins.

        Args:
            sample_idx (Tensor): Positions in the data set, an integer tensor
                of shape ``(B,)``, on the CPU.

        Returns:
            Tensor: float32, shape ``(P, num_classes)``: all that this rank
            has written last, in that order, if the batch begins with these
            P images, else no row.
        """
        own = self.own_idx
        count = len(own) if self._begins_with(sample_idx, own) else 0
        start = self.rank * self.batch_size
        # A copy, since the graph of the step may outlive the next writing.
        return self.logits[start : start + count].clone()

    @staticmethod
    def _begins_with(sample_idx: Tensor, own: Tensor) -> bool:
        return torch.equal(sample_idx[: len(own)].cpu().long(), own)

    @torch.no_grad()
    def write(self, sample_idx: Tensor, logits: Tensor) -> None:
        """Keep the logits of the new images, and forget those before.

        Args:
            sample_idx (Tensor): Positions in the data set, an integer tensor
                of shape ``(B,)``, on the CPU.
            logits (Tensor): Shape ``(B, num_classes)``, any float dtype.

        Raises:
            ValueError: If there are more rows than ``batch_size``, or if
                the logits do not fit.
        """
        check_tensors(sample_idx=sample_idx, logits=logits)
        check_rows(logits)
        wanted = (len(sample_idx), self.logits.shape[1])
        if logits.shape != wanted:
            raise ValueError(
                f'logits must have the shape {wanted}, but got '
                f'{tuple(logits.shape)}'
            )
        if len(sample_idx) > self.batch_size:
            raise ValueError(
                f'at most batch_size={self.batch_size} rows are kept, but '
                f'got {len(sample_idx)}'
            )
        own = sample_idx.cpu().long().clone()
        index = own.to(self.sample_idx.device, non_blocking=True)
        index, logits = of_all_ranks(index), of_all_ranks(logits)
        # Rank by rank; of fewer rows, the last places of a rank stay free.
        ranks = len(self.sample_idx) // self.batch_size
        rows, classes = wanted
        self.sample_idx.fill_(_NOTHING)
        self.sample_idx.view(ranks, -1)[:, :rows] = index.view(ranks, rows)
        self.logits.view(ranks, -1, classes)[:, :rows] = logits.to(
            self.logits
        ).view(ranks, rows, classes)
        self._own_idx = own

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args, **kwargs
    ) -> None:
        self._forget_copy()
        stored = {
            name: state_dict.get(f'{prefix}{name}')
            for name in ('logits', 'sample_idx')
        }
        if any(
            value is not None and value.shape != getattr(self, name).shape
            for name, value in stored.items()
        ):
            # Other batches than these: what is stored is of no use.
            self.sample_idx.fill_(_NOTHING)
            for name in stored:
                state_dict[f'{prefix}{name}'] = getattr(self, name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
