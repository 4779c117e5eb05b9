"""The student of a distillation as a config of mmpretrain alone."""

import copy
from collections.abc import Iterator
from typing import Any, Optional

from mmengine.config import Config

from mmkd_plugin.utils.architecture import read_architecture

# Packages that are there wherever the exported config is used.
_STOCK = ('mmpretrain', 'mmengine', 'mmcv', 'torch', 'torchvision')


def short(name: Any) -> str:
    """Strip a scope or an import path from the name of a type."""
    return str(name).rsplit('.', 1)[-1]


def walk(config: Any) -> Iterator[dict]:
    """Visit all dicts in a config, outer ones first."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, (dict, list, tuple)):
        parts = config.values() if isinstance(config, dict) else config
        for part in parts:
            yield from walk(part)


def student_config(config: dict, name: Optional[str] = None) -> dict:
    """Get the student of a config as a model of its own.

    Args:
        config (dict): A distillation config, or that of a classifier.
        name (str, optional): Which one, where there are several. Defaults to
            None.

    Returns:
        dict: Config of the model, without preprocessor, training options and
        first weights.

    Raises:
        ValueError: If there is no model in the config.
    """
    model = config.get('model')
    if not isinstance(model, dict):
        raise ValueError('the config has no `model`')
    if name is not None:
        model = model['students'][name]
    else:
        model = model.get('student', model)
    if 'cfg_path' in model:
        model = read_architecture(model).to_dict()
        model.pop('_scope_', None)
    model = copy.deepcopy(model)
    model.pop('data_preprocessor', None)
    for part in walk(model):
        name = short(part.get('type'))
        for option in ('pretrained', 'train_cfg'):
            part.pop(option, None)
        if name == 'TorchvisionClassifier':
            part.pop('weights', None)
        if name in ('TimmClassifier', 'TIMMBackbone'):
            part.pop('checkpoint_path', None)
        init = part.get('init_cfg')
        inits = init if isinstance(init, list) else [init or {}]
        if any(short(i.get('type')) == 'Pretrained' for i in inits):
            part.pop('init_cfg')
    return model


def foreign_packages(config: dict) -> set[str]:
    """Find the packages of types that are not OpenMMLab's."""
    from mmpretrain.registry import MODELS, TRANSFORMS

    packages = set()
    for part in walk(config):
        name = part.get('type')
        if not isinstance(name, str):
            continue
        found = MODELS.get(name) or TRANSFORMS.get(name)
        module = getattr(found, '__module__', None)
        if module is not None:
            packages.add(module.split('.', 1)[0])
    return packages.difference(_STOCK)


def needed_imports(config: dict, packages: set[str]) -> list[str]:
    given = (config.get('custom_imports') or {}).get('imports', [])
    given = [given] if isinstance(given, str) else given
    return [name for name in given if name.split('.', 1)[0] in packages]


def plain_config(
    model: dict,
    pipeline: list[dict],
    classes: Optional[list[str]],
    imports: list[str],
) -> Config:
    dataset: dict[str, Any] = dict(
        type='CustomDataset', data_root='data/test', pipeline=pipeline
    )
    if classes:
        dataset['classes'] = classes
    config: dict[str, Any] = dict(
        default_scope='mmpretrain',
        model=model,
        test_dataloader=dict(
            batch_size=64,
            num_workers=2,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        test_evaluator=dict(type='Accuracy', topk=(1,)),
        test_cfg=dict(),
    )
    if imports:
        config['custom_imports'] = dict(
            imports=imports, allow_failed_imports=False
        )
    return Config(config)
