"""Record what a module is called with."""

from mmengine.registry import TASK_UTILS
from torch import nn

from .base_recorder import keep
from .module_recorder import ModuleRecorder


class CallArguments(tuple):
    """The arguments of a call: positional by number, keywords by name."""

    def __new__(cls, args: tuple, kwargs: dict):
        """Make one from ``*args`` and ``**kwargs``."""
        self = super().__new__(cls, args)
        self.kwargs = kwargs
        return self

    def __getitem__(self, key):
        """Get an argument by position or by name."""
        if isinstance(key, str):
            return self.kwargs[key]
        return super().__getitem__(key)


@TASK_UTILS.register_module()
class ModuleInputs(ModuleRecorder):
    """Record what a module is called with.

    The record is the tuple of arguments: take one with ``data_idx``, a
    number for a positional argument or the name of a keyword argument.

    Args:
        source (str): Dotted path of the module, for example ``'head.fc'``.
            The empty string is the model itself.
    """

    records_arguments = True

    def install(self, module: nn.Module):
        """See :meth:`ModuleRecorder.install`."""
        return module.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.recording:
            self.records.append(CallArguments(keep(args), keep(kwargs)))
