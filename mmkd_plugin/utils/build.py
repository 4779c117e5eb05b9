"""Build a part of a config, with errors that say which part."""

import inspect
from typing import Any

from mmengine.registry import Registry

from .checks import nearest


def _find(where: str, registry: Registry, config: dict) -> Any:
    """Find the class or function that a config names."""
    kind = config['type']
    if isinstance(kind, str) and kind.strip('.'):
        with registry.switch_scope_and_registry(config.get('_scope_')) as here:
            found = here.get(kind)
        if found is not None:
            return found
        known = set(registry.module_dict)
        for scope, child in registry.children.items():
            known.update(f'{scope}.{name}' for name in child.module_dict)
        raise ValueError(
            f'{where}: there is no {kind!r} in the registry {registry.name}; '
            f'{nearest(kind, known)}'
        )
    if not callable(kind):
        raise ValueError(
            f'{where}: type must be a name or a class, but got {kind!r}'
        )
    return kind


def _check_options(where: str, kind: Any, config: dict) -> None:
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):
        # Some types of C have none to look at.
        return
    kinds = inspect.Parameter
    if any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        return
    name = getattr(kind, '__name__', repr(kind))
    given = [key for key in config if key not in ('type', '_scope_')]
    for key in given:
        if key not in parameters:
            raise ValueError(
                f'{where}: {name} has no option {key!r}; '
                f'{nearest(key, parameters)}'
            )
    missing = [
        key
        for key, p in parameters.items()
        if p.default is kinds.empty
        and p.kind is not kinds.VAR_POSITIONAL
        and key not in given
    ]
    if missing:
        raise ValueError(f'{where}: {name} needs {missing}')


def build_part(where: str, registry: Registry, config: dict) -> Any:
    """Build a component from its config.

    Args:
        where (str): What the part is called in the config, for messages.
        registry (Registry): Where the type is registered.
        config (dict): The config.

    Returns:
        Any: The component.

    Raises:
        ValueError: If there is no such type or option, if an option is
            missing, or if the component refuses one.
    """
    if not isinstance(config, dict) or 'type' not in config:
        raise ValueError(
            f'{where} must be a config with its type, but got {config!r}'
        )
    _check_options(where, _find(where, registry, config), config)
    try:
        return registry.build(config)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(f'{where}: {reason}') from error
