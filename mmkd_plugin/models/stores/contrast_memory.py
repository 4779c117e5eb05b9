"""A memory of the embeddings of every sample of a data set."""

import torch
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_count, check_number, check_tensors

from .sample_index import checked_index, last_places, of_all_ranks


class ContrastMemory(nn.Module):
    """Keeps a moving average of the embedding of every sample, by its index.

    The rows are of length 1, in random directions at first: drawn from
    torch's default generator, which the engine seeds. They are a buffer, so
    they are in the checkpoint of the module that the memory belongs to, and
    DDP gives all ranks those of the first one. They take ``4 * num_samples *
    feat_dim`` bytes.

    On several ranks every rank has the whole memory. :meth:`write` exchanges
    what the ranks write, so their batches must have the same size.

    Args:
        num_samples (int): Number of samples of the data set.
        feat_dim (int): Width of an embedding.
        momentum (float): Share of the row that is there in the one that is
            kept, in [0, 1). Defaults to 0.5.

    Raises:
        ValueError: If an option is out of its range.

    Attributes:
        rows (Tensor): float32, shape ``(num_samples, feat_dim)``.

    Examples:
        >>> import torch
        >>> memory = ContrastMemory(num_samples=3, feat_dim=2, momentum=0.0)
        >>> memory.write(torch.tensor([1]), torch.tensor([[3.0, -4.0]]))
        >>> memory.rows[1]
        tensor([ 0.6000, -0.8000])
    """

    rows: Tensor

    def __init__(
        self, num_samples: int, feat_dim: int, momentum: float = 0.5
    ) -> None:
        super().__init__()
        check_count('num_samples', num_samples)
        check_count('feat_dim', feat_dim)
        self.momentum = check_number('momentum', momentum, least=0, below=1)
        rows = torch.randn(num_samples, feat_dim)
        self.register_buffer('rows', nn.functional.normalize(rows))

    @torch.no_grad()
    def write(self, sample_idx: Tensor, rows: Tensor) -> None:
        """Move the rows of samples towards new ones, on all ranks.

        A row that is not finite is not kept: it would be in the losses of
        other samples ever after, while the loss of this one shows it.

        Args:
            sample_idx (Tensor): Positions in the data set, an integer tensor
                of shape ``(B,)``. Of an index that stands there more than
                once, the last row is kept, that of the last rank.
            rows (Tensor): Embeddings, shape ``(B, feat_dim)``, float.

        Raises:
            ValueError: If indices or rows do not fit.
        """
        index = checked_index(sample_idx, len(self.rows))
        check_tensors(rows=rows)
        wanted = (len(index), self.rows.shape[1])
        if rows.shape != wanted:
            raise ValueError(
                f'rows must have the shape {wanted}, but got '
                f'{tuple(rows.shape)}'
            )
        index = of_all_ranks(index)
        rows = of_all_ranks(rows)[last_places(index)]
        old = self.rows[index].to(rows.dtype)
        mixed = self.momentum * old + (1 - self.momentum) * rows
        lengths = torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
        # Neither holds for NaN.
        good = (lengths > 0) & (lengths < torch.inf)
        new = torch.where(good, mixed / lengths, old)
        self.rows[index] = new.to(self.rows.dtype)
