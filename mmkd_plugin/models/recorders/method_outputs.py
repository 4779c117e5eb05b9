"""Record what a method returns."""

from typing import Any

from mmengine.registry import TASK_UTILS

from .base_recorder import keep
from .callable_recorder import CallableRecorder


@TASK_UTILS.register_module()
class MethodOutputs(CallableRecorder):
    """Record what a method returns.

    Args:
        source (str): Full dotted name of a method of a class, for example
            ``'mmpretrain.models.ClsHead.pre_logits'``. Calls on all
            instances are recorded, those inside the recorded model.
    """

    owner_is_class = True

    def on_return(self, output: Any) -> None:
        """See :meth:`CallableRecorder.on_return`."""
        self.records.append(keep(output))
