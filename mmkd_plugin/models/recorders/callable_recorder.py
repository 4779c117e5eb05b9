"""Base of the recorders that watch a function or a method."""

import functools
import importlib
import inspect
from typing import Any

from torch import nn

from mmkd_plugin.utils.checks import nearest

from .base_recorder import BaseRecorder


def _import_owner(source: str) -> tuple:
    """Split a dotted name into the owner, already imported, and the rest."""
    parts = source.split('.')
    for stop in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module('.'.join(parts[:stop]))
        except ImportError:
            continue
        for part in parts[stop:-1]:
            if not hasattr(owner, part):
                raise ValueError(
                    f'{source!r}: {owner.__name__} has no {part!r}; '
                    f'{nearest(part, dir(owner))}'
                )
            owner = getattr(owner, part)
        if not callable(getattr(owner, parts[-1], None)):
            raise ValueError(
                f'{source!r}: {owner.__name__} has no function {parts[-1]!r};'
                f' {nearest(parts[-1], dir(owner))}'
            )
        return owner, parts[-1]
    raise ValueError(f'{source!r}: there is no module {parts[0]!r}')


class CallableRecorder(BaseRecorder):
    """Replaces a function while it records, and only then.

    The function is looked up and replaced by its dotted name. Code that
    holds it under another name (``from module import function``) does not
    see the replacement: name it where it is used.

    Args:
        source (str): Full dotted name.

    Raises:
        ValueError: If nothing of that name can be imported.
    """

    #: Whether the owner of the function must be a class.
    owner_is_class = False

    def __init__(self, source: str) -> None:
        super().__init__(source)
        owner, _ = _import_owner(source)
        if isinstance(owner, type) is not self.owner_is_class:
            kind = 'a class' if self.owner_is_class else 'a module'
            raise ValueError(
                f'{type(self).__name__} needs a function of {kind}, but '
                f'{source!r} belongs to {owner!r}'
            )
        self._original = None

    def initialize(self, model: nn.Module) -> None:
        """See :meth:`BaseRecorder.initialize`; nothing of the model is used.

        Args:
            model (nn.Module): The student or the teacher.
        """

    def on_call(self, args: tuple, kwargs: dict) -> None:
        """Keep what is wanted of the arguments, before the call.

        Args:
            args (tuple): Positional arguments.
            kwargs (dict): Keyword arguments.
        """

    def on_return(self, output: Any) -> None:
        """Keep what is wanted of the result.

        Args:
            output (Any): What the function returned.
        """

    def __enter__(self) -> 'CallableRecorder':
        super().__enter__()
        owner, name = _import_owner(self.source)
        # None if it is inherited.
        self._original = vars(owner).get(name)
        # The raw attribute: getattr would unwrap a static method, and bind a
        # class method to this class where a subclass may call it.
        raw = inspect.getattr_static(owner, name, None)
        kind = type(raw)
        if kind in (staticmethod, classmethod):
            function = raw.__func__
        else:
            function, kind = getattr(owner, name), None

        @functools.wraps(function)
        def watched(*args, **kwargs):
            self.on_call(args, kwargs)
            output = function(*args, **kwargs)
            self.on_return(output)
            return output

        setattr(owner, name, watched if kind is None else kind(watched))
        return self

    def __exit__(self, *exc_info) -> None:
        super().__exit__(*exc_info)
        owner, name = _import_owner(self.source)
        if self._original is None:
            delattr(owner, name)
        else:
            setattr(owner, name, self._original)
        self._original = None
