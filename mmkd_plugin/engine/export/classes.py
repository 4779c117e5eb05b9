"""The names of a student's classes."""

import logging
from collections.abc import Sequence
from typing import Optional

from mmengine.logging import print_log

from .config import walk


def find_classes(
    config: dict, checkpoint: dict, num_classes: int
) -> Optional[list[str]]:
    """Find the names of the classes.

    The evaluation data come first: a student may be trained on images whose
    classes are not its own.
    """
    sources = []
    for loader in ('val_dataloader', 'test_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset')
        if isinstance(dataset, dict):
            sources.append((loader, lambda d=dataset: _dataset_classes(d)))
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    trained = meta.get('dataset_meta') or {}
    sources.append(('checkpoint', lambda: trained.get('classes')))
    for source, get in sources:
        classes = get()
        if not isinstance(classes, (list, tuple)) or not classes:
            continue
        if len(classes) == num_classes:
            return [str(name) for name in classes]
        print_log(
            f'The {len(classes)} class names of the {source} are not used: '
            f'the student has {num_classes} classes.',
            logger='current',
            level=logging.WARNING,
        )
    print_log(
        'The names of the classes are not known; the exported model gives '
        'indices only.',
        logger='current',
        level=logging.WARNING,
    )
    return None


def _dataset_classes(dataset: dict) -> Optional[Sequence[str]]:
    from mmpretrain.registry import DATASETS

    for part in walk(dataset):
        metainfo = part.get('metainfo') or {}
        given = part.get('classes') or metainfo.get('classes')
        if isinstance(given, (list, tuple)):
            return given
        if isinstance(part.get('type'), str):
            found = DATASETS.get(part['type'])
            given = getattr(found, 'METAINFO', {}).get('classes')
            if given:
                return given
    # A wrapper may read all images.
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    try:
        return DATASETS.build(dataset).metainfo.get('classes')
    # The data need not be there, and names are only an extra.
    except Exception as error:
        print_log(
            f'The evaluation data cannot be asked for class names: {error}',
            logger='current',
            level=logging.WARNING,
        )
        return None
