"""A data loader's batches, epoch after epoch."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class EndlessBatches:
    """Iterate over a data loader for ever, from any position.

    Args:
        dataloader (DataLoader): A loader whose sampler ends, such as
            ``DefaultSampler``. Where the sampler has ``set_epoch``, it is
            told each epoch.
        position (int): How many batches to leave out, as a resumed run has
            seen them. Defaults to 0.

    Raises:
        ValueError: If the loader has no batch at all.
    """

    def __init__(self, dataloader: DataLoader, position: int = 0) -> None:
        if len(dataloader) == 0:
            raise ValueError(
                f'{len(dataloader.sampler)} images a process are fewer than a '
                f'batch of {dataloader.batch_size}'
            )
        self.dataloader = dataloader
        self._epoch, self._skip = divmod(position, len(dataloader))
        self._batches = self._iterate()

    def _iterate(self) -> Iterator[Any]:
        while True:
            sampler = self.dataloader.sampler
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(self._epoch)
            for index, batch in enumerate(self.dataloader):
                if index >= self._skip:
                    yield batch
            self._epoch, self._skip = self._epoch + 1, 0

    def __iter__(self) -> Iterator[Any]:
        """Get the object itself."""
        return self

    def __next__(self) -> Any:
        """Get the next batch."""
        return next(self._batches)
