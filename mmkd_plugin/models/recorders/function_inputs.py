"""Record what a function is called with."""

from mmengine.registry import TASK_UTILS

from .base_recorder import keep
from .callable_recorder import CallableRecorder
from .module_inputs import CallArguments


@TASK_UTILS.register_module()
class FunctionInputs(CallableRecorder):
    """Record what a function is called with.

    The record is the tuple of arguments: take one with ``data_idx``, a
    number for a positional argument or the name of a keyword argument.

    Args:
        source (str): Full dotted name of a function of a module, for example
            ``'torch.nn.functional.relu'``. Name it where it is used: code
            that did ``from module import function`` is not watched.
    """

    owner_is_class = False
    records_arguments = True

    def on_call(self, args: tuple, kwargs: dict) -> None:
        """See :meth:`CallableRecorder.on_call`."""
        self.records.append(CallArguments(keep(args), keep(kwargs)))
