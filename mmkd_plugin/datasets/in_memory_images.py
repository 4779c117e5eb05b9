"""Any small data set of images as one array."""

import numpy as np
from mmengine.registry import DATASETS

from .array_images import ArrayImages


@DATASETS.register_module()
class InMemoryImages(ArrayImages):
    """Read a data set once and keep its images as one array.

    Meant for mmpretrain's ``CIFAR10`` and ``CIFAR100``. Every other data set
    whose samples hold an ``img`` (RGB or BGR, as its pipeline loads it) of
    one size will do.

    Args:
        dataset (dict): Config of the data set. Its pipeline runs once an
            image, when the data set is read, so it must not augment.
        with_label (bool): Whether to keep the labels. False makes labeled
            images unlabeled ones. Defaults to True.

    Raises:
        ValueError: If images have different sizes.
        KeyError: If a sample has no ``img``.
    """

    def __init__(self, dataset: dict, *, with_label: bool = True) -> None:
        source = DATASETS.build(dataset)
        if hasattr(source, 'full_init'):
            source.full_init()
        images, labels = [], []
        for index in range(len(source)):
            sample = source[index]
            images.append(sample['img'])
            if with_label:
                labels.append(int(sample['gt_label']))
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(
                f'images must have one size, but {type(source).__name__} has '
                f'{sorted(shapes)[:5]}: resize them in its pipeline'
            )
        super().__init__(
            np.stack(images) if images else np.empty((0, 1, 1, 3), np.uint8),
            labels if with_label else None,
            source.metainfo.get('classes'),
        )
