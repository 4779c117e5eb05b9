"""Teachers and students from their configs."""

from typing import Optional, Union

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS
from torch import nn


def read_architecture(config: dict) -> dict:
    """Get the config of a model that may lie in another file.

    Args:
        config (dict): Config of a model, or ``dict(cfg_path=...)`` with the
            path of a config file or the name of one in a package
            (``'mmpretrain::resnet/...'``), whose ``model`` is taken.

    Returns:
        dict: The config of the model; one from a file has the scope and the
        preprocessor of that file.

    Raises:
        ValueError: If ``cfg_path`` comes with ``pretrained=True`` or with
            other keys, or if the config file has no ``model``.
    """
    if 'cfg_path' not in config:
        return config
    path = config['cfg_path']
    if config.get('pretrained'):
        raise ValueError(
            f'{path}: pretrained=True is not supported, download the '
            f'checkpoint and give its path as teacher_ckpt or student_ckpt'
        )
    others = [key for key in config if key not in ('cfg_path', 'pretrained')]
    if others:
        raise ValueError(
            f'{path}: the model is that of the file, {others} would be ignored'
        )
    if '::' in path:
        content, scope = get_config(path), path.split('::')[0]
    else:
        content = Config.fromfile(path)
        scope = content.get('default_scope')
    if 'model' not in content:
        raise ValueError(f'{path} has no model; its keys are {list(content)}')
    model = content.model
    if 'data_preprocessor' in content:
        # With it, the statistics that the model was trained with.
        model.setdefault('data_preprocessor', content.data_preprocessor)
    if scope is not None:
        model.setdefault('_scope_', scope)
    return model


def build_architecture(config: Union[dict, nn.Module]) -> nn.Module:
    """Build a teacher or a student.

    Args:
        config (dict or nn.Module): A config as :func:`read_architecture`
            takes it. A built model is returned as it is.

    Returns:
        nn.Module: The model, without weights.

    Raises:
        ValueError: As :func:`read_architecture`.
    """
    if isinstance(config, nn.Module):
        return config
    return MODELS.build(read_architecture(config))


def num_classes(model: nn.Module) -> Optional[int]:
    """Get the number of classes of a model, if it tells.

    Args:
        model (nn.Module): A classifier of mmpretrain or one that holds a
            model of timm.

    Returns:
        int or None: The number.
    """
    # mmpretrain's heads, then timm's models.
    for part in ('head', 'model'):
        count = getattr(getattr(model, part, None), 'num_classes', None)
        if isinstance(count, int):
            return count
    return None
