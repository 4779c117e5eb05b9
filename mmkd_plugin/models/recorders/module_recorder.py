"""Base of the recorders that hook a module."""

from abc import abstractmethod
from typing import Any

from torch import nn

from mmkd_plugin.utils.checks import nearest

from .base_recorder import BaseRecorder


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Find a submodule by its dotted path.

    Args:
        model (nn.Module): Where to look.
        path (str): The path; the empty string is the model itself.

    Returns:
        nn.Module: The submodule.

    Raises:
        ValueError: If there is none, or if it is a container that is never
            called. The message lists the nearest paths.
    """
    # A shared module has several paths, and each is one of its names.
    modules = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        raise ValueError(
            f'{type(model).__name__} has no module {path!r}; '
            f'{nearest(path, filter(None, modules))}'
        )
    if isinstance(modules[path], (nn.ModuleList, nn.ModuleDict)):
        children = [k for k in modules if k.startswith(f'{path}.')]
        raise ValueError(
            f'{path!r} is a {type(modules[path]).__name__}, which is never '
            f'called itself; take one of its children: '
            f'{", ".join(children[:10])}'
        )
    return modules[path]


class ModuleRecorder(BaseRecorder):
    """Hooks a module and keeps the handle.

    The hook is installed once, before a possible ``torch.compile``, and does
    nothing unless the recorder is recording. :meth:`initialize` may be called
    again; where the module has been replaced, the hook moves to the new one.

    Args:
        source (str): Dotted path of the module. The empty string is the
            model itself.
    """

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._handle = None

    def initialize(self, model: nn.Module) -> None:
        """See :meth:`BaseRecorder.initialize`."""
        module = find_module(model, self.source)
        if self._handle is not None and any(
            self._handle.id in hooks
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ):
            return
        self.remove()
        self._handle = self.install(module)

    @abstractmethod
    def install(self, module: nn.Module) -> Any:
        """Register the hook.

        Args:
            module (nn.Module): The module to hook.

        Returns:
            torch.utils.hooks.RemovableHandle: The handle of the hook.
        """

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
