"""Batches that begin with the images of the one before."""

from collections.abc import Iterable, Iterator
from itertools import islice

from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from mmkd_plugin.utils.checks import check_count, check_flag


@DATA_SAMPLERS.register_module()
class LastBatchSampler(Sampler):
    """Let every batch begin with the new images of the batch before.

    The first batch of an epoch has ``batch_size`` images; each of the others
    has those that were new in the one before, in the same order, and as many
    new ones. The data set is asked for an image twice, so an augmenting
    pipeline gives two views of it, and so does
    :class:`BatchAugDataPreprocessor`. It is a batch sampler around any
    sampler, for :class:`DLB`::

        train_dataloader = dict(
            batch_size=64,
            batch_sampler=dict(type='LastBatchSampler', drop_last=True),
            sampler=dict(type='DefaultSampler', shuffle=True),
            ...)

    PyTorch wants no ``drop_last`` of the data loader itself beside a batch
    sampler.

    On several ranks, the sampler is that of a rank, and so is the last batch.

    Reference:
        The batches are those of Shen et al., Self-Distillation from the Last
        Mini-Batch for Consistency Regularization, CVPR 2022,
        https://arxiv.org/abs/2203.16172. What differs from the published
        code: there, the last batch of an epoch is seen again in the first
        step of the next epoch.

    Args:
        sampler (Iterable[int]): Where new images come from. Given by the
            runner.
        batch_size (int): Number of new images of a batch. Given by the
            runner.
        drop_last (bool): Whether to leave out the last new images of an
            epoch where they are fewer than ``batch_size``. Defaults to
            False.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> list(LastBatchSampler(range(5), batch_size=2))
        [[0, 1], [0, 1, 2, 3], [2, 3, 4]]
    """

    def __init__(
        self,
        sampler: Iterable[int],
        batch_size: int,
        *,
        drop_last: bool = False,
    ) -> None:
        # DistSamplerSeedHook of mmengine looks for it under this name.
        self.sampler = sampler
        self.batch_size = check_count('batch_size', batch_size)
        self.drop_last = check_flag('drop_last', drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        indices, last = iter(self.sampler), []
        while new := list(islice(indices, self.batch_size)):
            if self.drop_last and len(new) < self.batch_size:
                return
            yield last + new
            last = new

    def __len__(self) -> int:
        count = len(self.sampler)
        if self.drop_last:
            return count // self.batch_size
        return -(-count // self.batch_size)
