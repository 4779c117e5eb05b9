"""What all recorders share: a buffer that fills while one is recording."""

from abc import ABC, abstractmethod
from typing import Any, Optional, Union

from torch import Tensor, nn


def keep(value: Any) -> Any:
    """Copy tensors, in nested tuples, lists and dicts as well.

    In mmpretrain every ReLU after a batch norm works in place: a record that
    is not a copy would turn into the activation. The copy is a part of the
    graph, so gradients flow through it.
    """
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*(keep(v) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(keep(v) for v in value)
    if isinstance(value, dict):
        return {k: keep(v) for k, v in value.items()}
    return value


class BaseRecorder(ABC):
    """A tap on a model.

    Records are kept only inside ``with recorder:``. Entering empties the
    buffer; :meth:`clear` does so too.

    Args:
        source (str): What to tap; its meaning is the subclass's.

    Raises:
        ValueError: If ``source`` is no string.
    """

    #: Whether a record is a tuple of arguments, not what a loss wants.
    records_arguments = False

    def __init__(self, source: str) -> None:
        if not isinstance(source, str):
            raise ValueError(f'source must be a string, but got {source!r}')
        self.source = source
        self.recording = False
        self.records = []

    @abstractmethod
    def initialize(self, model: nn.Module) -> None:
        """Attach the recorder to a model.

        Args:
            model (nn.Module): The student or the teacher.

        Raises:
            ValueError: If the model has no such source.
        """

    def remove(self) -> None:  # noqa: B027
        """Detach the recorder from its model."""

    def clear(self) -> None:
        """Forget all records."""
        self.records = []

    def __enter__(self) -> 'BaseRecorder':
        self.clear()
        self.recording = True
        return self

    def __exit__(self, *exc_info) -> None:
        self.recording = False

    def get_record(
        self, record_idx: int = 0, data_idx: Optional[Union[int, str]] = None
    ) -> Any:
        """Get what was recorded.

        Args:
            record_idx (int): Which call of the source in this forward pass.
                Defaults to 0.
            data_idx (int or str, optional): Which element of the record, if
                that is a tuple, a list or a dict. Defaults to None, which
                takes the whole record.

        Returns:
            Any: The record, as a rule a tensor.

        Raises:
            RuntimeError: If there is no such record or element.
        """
        where = f'{type(self).__name__} on {self.source!r}'
        if not self.records:
            raise RuntimeError(
                f'{where} recorded nothing: the forward pass did not use it'
            )
        try:
            record = self.records[record_idx]
        except IndexError:
            raise RuntimeError(
                f'{where} has {len(self.records)} record(s), there is no '
                f'record_idx={record_idx}'
            ) from None
        if data_idx is None:
            return record
        try:
            # A tensor would give one of its samples.
            if isinstance(record, Tensor):
                raise TypeError
            return record[data_idx]
        except (IndexError, KeyError, TypeError):
            kind = type(record).__name__
            sized = isinstance(record, (tuple, list, dict))
            size = f' of {len(record)}' if sized else ''
            raise RuntimeError(
                f'{where} recorded a {kind}{size}, there is no '
                f'data_idx={data_idx!r}'
            ) from None
