"""Record what a function returns."""

from typing import Any

from mmengine.registry import TASK_UTILS

from .base_recorder import keep
from .callable_recorder import CallableRecorder


@TASK_UTILS.register_module()
class FunctionOutputs(CallableRecorder):
    """Record what a function returns.

    Args:
        source (str): Full dotted name of a function of a module, for example
            ``'torch.nn.functional.relu'``. Name it where it is used: code
            that did ``from module import function`` is not watched.
    """

    owner_is_class = False

    def on_return(self, output: Any) -> None:
        """See :meth:`CallableRecorder.on_return`."""
        self.records.append(keep(output))
