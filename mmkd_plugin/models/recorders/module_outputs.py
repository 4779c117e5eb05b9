"""Record what a module returns."""

from mmengine.registry import TASK_UTILS
from torch import nn

from .base_recorder import keep
from .module_recorder import ModuleRecorder


@TASK_UTILS.register_module()
class ModuleOutputs(ModuleRecorder):
    """Record what a module returns, before anything changes it in place.

    Args:
        source (str): Dotted path of the module, for example
            ``'backbone.bn1'`` or ``'head.fc'``. The empty string is the
            model itself.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
        >>> recorder = ModuleOutputs('0')
        >>> recorder.initialize(net)
        >>> with recorder:
        ...     _ = net(torch.tensor([-1.0]))
        >>> recorder.get_record()
        tensor([-1.])
    """

    def install(self, module: nn.Module):
        """See :meth:`ModuleRecorder.install`."""
        return module.register_forward_hook(self._record)

    def _record(self, module: nn.Module, args: tuple, output) -> None:
        if self.recording:
            self.records.append(keep(output))
