"""How a student gets image files: channels, normalisation and size."""

from collections.abc import Sequence
from typing import Any, Optional, Union

from mmkd_plugin.utils.checks import check_number

from .config import foreign_packages, short, walk

_PREPROCESSORS = (
    'BatchAugDataPreprocessor',
    'ClsDataPreprocessor',
    # Takes the views that a pipeline makes.
    'SelfSupDataPreprocessor',
)
_REVERSE = ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')
# What a preprocessor does outside of training.
_TEST_OPTIONS = ('mean', 'std', 'pad_size_divisor', 'pad_value')


def plain_preprocessor(config: dict) -> dict:
    """Get the stock preprocessor that does the same to image files."""
    given = config['model'].get('data_preprocessor')
    given = given or config.get('data_preprocessor') or {}
    name = short(given.get('type', 'ClsDataPreprocessor'))
    if name not in _PREPROCESSORS:
        raise ValueError(
            f'the data_preprocessor must be one of {_PREPROCESSORS} to be '
            f'exported, but got {given["type"]!r}'
        )
    plain: dict[str, Any] = dict(type='ClsDataPreprocessor')
    plain.update({k: given[k] for k in _TEST_OPTIONS if k in given})
    # The student's order is that of the data, reversed if `to_rgb`. Files
    # are loaded as BGR.
    reverse = any(given.get(option) for option in _REVERSE)
    plain['to_rgb'] = reverse == _loads_bgr(config, name)
    return plain


def _loads_bgr(config: dict, preprocessor: str) -> bool:
    """Whether the model was trained on images in OpenCV's channel order."""
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset')
        if isinstance(dataset, dict):
            return file_pipeline(dataset) is not None
    # Without data, the usual data of the preprocessor.
    return preprocessor != 'BatchAugDataPreprocessor'


def file_pipeline(dataset: dict) -> Optional[list]:
    """Get the pipeline of a data set, if it loads files."""
    for part in walk(dataset):
        pipeline = part.get('pipeline') or []
        if any(short(t.get('type')) == 'LoadImageFromFile' for t in pipeline):
            return pipeline
    return None


def pipeline_and_size(
    config: dict, given: Optional[Union[int, Sequence[int]]]
) -> tuple[list[dict], tuple[int, int]]:
    """Get the test pipeline and the height and width that it gives."""
    own = None
    for loader in ('test_dataloader', 'val_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset')
        if given is None and isinstance(dataset, dict) and own is None:
            own = file_pipeline(dataset)
    if own is not None and foreign_packages(dict(pipeline=own)):
        own = None
    if own is not None and short(own[-1].get('type')) != 'PackInputs':
        # A wrapper of the data set takes the images themselves.
        own = [*own, dict(type='PackInputs')]
    size = config.get('input_size') if given is None else given
    if size is None:
        size = _crop_size(config, own or [])
    if size is None:
        raise ValueError(
            'the config does not tell the size of the images: give it with '
            '--input-size'
        )
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2:
        raise ValueError(
            f'input_size must be one number or height and width, but got '
            f'{size!r}'
        )
    for side in sides:
        check_number('input_size', side, least=1)
    height, width = (int(side) for side in sides)
    pipeline = own or [
        dict(type='LoadImageFromFile'),
        # mmcv's scale is (width, height).
        dict(type='Resize', scale=(width, height)),
        dict(type='PackInputs'),
    ]
    return pipeline, (height, width)


def _crop_size(config: dict, pipeline: list[dict]) -> Any:
    preprocessor = config['model'].get('data_preprocessor')
    preprocessor = preprocessor or config.get('data_preprocessor') or {}
    for transform in preprocessor.get('augments') or []:
        if 'crop_size' in transform:
            return transform['crop_size']
    for transform in reversed(pipeline):
        if 'crop_size' in transform:
            return transform['crop_size']
        if short(transform.get('type')) == 'Resize':
            scale = transform.get('scale')
            return scale if isinstance(scale, int) else tuple(scale)[::-1]
    return None
