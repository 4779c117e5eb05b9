"""Build a part of a config, with errors that say which part."""

import inspect
from typing import Any

from mmengine.registry import Registry

from .checks import nearest


def _check_options(where: str, kind: Any, config: dict) -> None:
    parameters = inspect.signature(kind).parameters
    kinds = inspect.Parameter
    if any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        return
    given = [key for key in config if key not in ('type', '_scope_')]
    for key in given:
        if key not in parameters:
            raise ValueError(
                f'{where}: {kind.__name__} has no option {key!r}; '
                f'{nearest(key, parameters)}'
            )
    missing = [
        name
        for name, p in parameters.items()
        if p.default is kinds.empty
        and p.kind is not kinds.VAR_POSITIONAL
        and name not in given
    ]
    if missing:
        raise ValueError(f'{where}: {kind.__name__} needs {missing}')


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
    name = config['type']
    with registry.switch_scope_and_registry(config.get('_scope_')) as scoped:
        kind = scoped.get(name) if isinstance(name, str) else name
    if kind is None:
        known = set(registry.module_dict)
        for child in registry.children.values():
            known.update(child.module_dict)
        raise ValueError(
            f'{where}: there is no {name!r} in the registry {registry.name}; '
            f'{nearest(name.rsplit(".", 1)[-1], known)}'
        )
    _check_options(where, kind, config)
    try:
        return registry.build(config)
    except (KeyError, TypeError, ValueError) as error:
        reason = error.args[0] if error.args else error
        raise ValueError(f'{where}: {reason}') from error
