"""Record a parameter."""

from mmengine.registry import TASK_UTILS
from torch import nn

from mmkd_plugin.utils.checks import nearest

from .base_recorder import BaseRecorder


@TASK_UTILS.register_module()
class Parameter(BaseRecorder):
    """Read a parameter of the model, as it is during the forward pass.

    Args:
        source (str): Dotted path of the parameter, for example
            ``'head.fc.weight'``.
    """

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._model = None

    def initialize(self, model: nn.Module) -> None:
        """See :meth:`BaseRecorder.initialize`."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        if self.source not in parameters:
            raise ValueError(
                f'{type(model).__name__} has no parameter {self.source!r}; '
                f'{nearest(self.source, parameters)}'
            )
        self._model = model

    def remove(self) -> None:
        """Let go of the model."""
        self._model = None

    def __enter__(self) -> 'Parameter':
        super().__enter__()
        # Not held from the start: a parameter may be replaced.
        self.records = [self._model.get_parameter(self.source)]
        return self
