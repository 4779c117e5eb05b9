"""Record what a method is called with."""

from mmengine.registry import TASK_UTILS

from .base_recorder import keep
from .callable_recorder import CallableRecorder
from .module_inputs import CallArguments


@TASK_UTILS.register_module()
class MethodInputs(CallableRecorder):
    """Record what a method is called with.

    The record is the tuple of arguments: take one with ``data_idx``, a
    number for a positional argument or the name of a keyword argument.
    Number 0 is ``self``, or the class of a class method.

    Args:
        source (str): Full dotted name of a method of a class, for example
            ``'mmpretrain.models.ClsHead.pre_logits'``. Calls on all
            instances are recorded, those inside the recorded model.
    """

    owner_is_class = True
    records_arguments = True

    def on_call(self, args: tuple, kwargs: dict) -> None:
        """See :meth:`CallableRecorder.on_call`."""
        self.records.append(CallArguments(keep(args), keep(kwargs)))
