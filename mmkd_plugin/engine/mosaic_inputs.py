"""What MosaicKD asks of a model and of images, before a run."""

import copy
from collections.abc import Sequence

from mmengine.registry import DATASETS
from torch import nn

from mmkd_plugin.models.data_preprocessors import BatchAugDataPreprocessor
from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checks import check_number

from .preflight import check_sampler


def check_algorithm(model: nn.Module) -> None:
    """Check that a model can be trained with synthetic images.

    Args:
        model (nn.Module): The algorithm.

    Raises:
        ValueError: If it lacks teacher or student, if its preprocessor does
            not take synthetic images or has no statistics, or if it needs
            labels.
    """
    for part in ('teacher', 'student'):
        if not isinstance(getattr(model, part, None), nn.Module):
            raise ValueError(
                f'MosaicGeneratorHook needs a model with one teacher and one '
                f'student, such as SingleTeacherDistill, but '
                f'{type(model).__name__} has no {part}'
            )
    preprocessor = model.data_preprocessor
    if not isinstance(preprocessor, BatchAugDataPreprocessor):
        raise ValueError(
            f'MosaicGeneratorHook needs a BatchAugDataPreprocessor, which '
            f'puts synthetic images into the batch and takes the same '
            f'options, but got {type(preprocessor).__name__}'
        )
    if not preprocessor._enable_normalize:
        raise ValueError(
            "the teacher's normalisation is unknown: give mean and std to "
            'data_preprocessor (mean=[0, 0, 0], std=[1, 1, 1] if the teacher '
            'takes pixels of 0 to 255 as they are)'
        )
    if getattr(model, 'calculate_student_loss', False):
        raise ValueError(
            'synthetic images have no labels: set calculate_student_loss=False'
        )


def check_size(what: str, dataset: Sequence, loader: dict) -> None:
    """Check that there are enough images for a batch.

    Args:
        what (str): What the images are called in the message.
        dataset (Sequence): The images.
        loader (dict): Config of their loader.

    Raises:
        ValueError: If there are not.
    """
    size = loader.get('batch_size', 1)
    # Some samplers draw from a part of the images.
    part = (loader.get('sampler') or {}).get('num_samples')
    count = min(len(dataset), part or len(dataset))
    if loader.get('drop_last', False) and count < size:
        raise ValueError(
            f'the data set of {count} {what} images is smaller than a batch '
            f'of {size}'
        )


def check_images(model: nn.Module, dataset: Sequence, image_size: int) -> None:
    """Check that images are as large as those of the generator.

    The first one is looked at, as the discriminator and as the student get
    it.

    Args:
        model (nn.Module): The algorithm.
        dataset (Sequence): The images.
        image_size (int): Side of those of the generator, pixels.

    Raises:
        ValueError: If they are not.
    """
    first = dataset[0]
    if not isinstance(first, dict) or 'inputs' not in first:
        raise ValueError(
            f'{type(dataset).__name__} must give dicts with `inputs`, as '
            f"mmpretrain's PackInputs makes them, but gave "
            f'{list(first) if isinstance(first, dict) else type(first)}'
        )
    batch = {key: [value] for key, value in first.items()}
    for training in (False, True):
        images = model.data_preprocessor(batch, training)['inputs']
        height, width = images.shape[-2:]
        if (height, width) != (image_size, image_size):
            raise ValueError(
                f'the generator makes images of {image_size}x{image_size}, '
                f'but the {"training" if training else "real"} images are '
                f'{height}x{width}'
                + (' after augmentation' if training else '')
            )


def real_dataset(config: dict, dataset: Sequence, loader: dict) -> Sequence:
    """Get the images of a loader of the discriminator's own.

    Args:
        config (dict): Config of that loader.
        dataset (Sequence): The images that the student gets.
        loader (dict): Config of their loader.

    Returns:
        Sequence: The images: ``dataset`` itself where both are the same.

    Raises:
        KeyError: If there is no sampler of that name.
        TypeError: If the sampler has no such option, or lacks one.
        ValueError: If the config is incomplete, or the images cannot be
            loaded.
    """
    if not isinstance(config, dict):
        raise ValueError(
            f'real_dataloader must be a config, but got {config!r}'
        )
    missing = [
        key for key in ('dataset', 'sampler') if config.get(key) is None
    ]
    if missing:
        raise ValueError(
            f'real_dataloader is a whole config of its own: it needs '
            f'{missing} as well, but got {sorted(config)}'
        )
    if isinstance(config['sampler'], dict):
        check_sampler(**config['sampler'])
    images = config['dataset']
    if not isinstance(images, dict):
        return images
    if images == loader.get('dataset'):
        # No need to load them a second time.
        return dataset
    where = 'real_dataloader.dataset'
    try:
        images = build_part(where, DATASETS, copy.deepcopy(images))
        if hasattr(images, 'full_init'):
            images.full_init()
    # What mmpretrain's data sets raise where files are missing or bad.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'{where}: {error}') from error
    return images


def check_statistics(statistics: dict) -> None:
    """Check mean and deviation of the student's real images.

    Args:
        statistics (dict): ``real_statistics`` of the hook.

    Raises:
        ValueError: If it is no dict of both, or if a number is wrong.
    """
    if not isinstance(statistics, dict) or {*statistics} != {'mean', 'std'}:
        raise ValueError(
            f'real_statistics must be a dict of mean and std, but got '
            f'{statistics!r}'
        )
    for name, values in statistics.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(
                f'{name} of real_statistics must be a list of numbers, but '
                f'got {values!r}'
            )
        least = {} if name == 'mean' else dict(above=0)
        for value in values:
            check_number(f'{name} of real_statistics', value, **least)
