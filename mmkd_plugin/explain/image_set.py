"""Images with foregrounds, as the networks are asked about them."""

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from mmkd_plugin.utils.checks import check_count


class ImageSet(NamedTuple):
    """Images and their foregrounds.

    Attributes:
        images (Tensor): As the data set gives them, before normalisation,
            shape ``(N, 3, H, W)``.
        masks (Tensor): The foreground, bool, shape ``(N, H, W)``.
        names (list[str]): Of the images.
        labels (list[int or None]): Their classes, where known.
    """

    images: Tensor
    masks: Tensor
    names: list[str]
    labels: list[Optional[int]]


def load_images(
    dataset: Sequence,
    num_images: Optional[int] = None,
    seed: int = 0,
) -> ImageSet:
    """Load images with foregrounds from a data set.

    Args:
        dataset (Sequence): Items as mmpretrain's ``PackInputs`` packs them,
            whose data samples have the field ``gt_seg_map``, ``(H, W)``,
            which is nonzero on the foreground.
        num_images (int, optional): How many to draw at random, without
            repetition. Defaults to None, all of them.
        seed (int): Decides which are drawn. Defaults to 0.

    Returns:
        ImageSet: In the order of the data set.

    Raises:
        ValueError: If an item has no foreground map, if a map has another
            size than its image, or if images have different sizes.
    """
    count = len(dataset)
    if not count:
        raise ValueError('the data set has no images')
    chosen = np.arange(count)
    if num_images is not None and check_count('num_images', num_images) < (
        count
    ):
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(count)[:num_images])
    images, masks, names, labels, files = [], [], [], [], []
    for index in chosen.tolist():
        item = dataset[index]
        image, sample = item['inputs'], item['data_samples']
        file = None if sample.get('name') else sample.get('img_path')
        name = str(file or sample.get('name') or f'image {index}')
        if 'gt_seg_map' not in sample:
            raise ValueError(
                f'{name}: the data sample has no gt_seg_map, the foreground. '
                f'The pipeline needs dict(type="LoadForeground") after the '
                f'image is loaded, and dict(type="PackInputs", '
                f'algorithm_keys=("gt_seg_map",)) at its end'
            )
        mask = torch.from_numpy(np.asarray(sample.gt_seg_map) != 0)
        if mask.shape != image.shape[-2:]:
            raise ValueError(
                f'{name}: the mask has {_size(mask)} pixels, but its image '
                f'{_size(image)}; both must be resized and cropped alike '
                f'(Resize, CenterCrop and RandomFlip do that, ResizeEdge '
                f'does not)'
            )
        if images and image.shape != images[0].shape:
            raise ValueError(
                f'{name} has {_size(image)} pixels, but {names[0]} '
                f'{_size(images[0])}; resize all to one size in the pipeline'
            )
        images.append(image)
        masks.append(mask)
        names.append(name)
        files.append(bool(file))
        label = sample.get('gt_label')
        labels.append(None if label is None else int(label))
    return ImageSet(
        torch.stack(images),
        torch.stack(masks),
        _shorten(names, files),
        labels,
    )


def _shorten(names: list[str], files: list[bool]) -> list[str]:
    """Leave out the folder that all files are in."""
    folders = [
        os.path.dirname(name)
        for name, is_file in zip(names, files, strict=True)
        if is_file
    ]
    common = os.path.commonpath(folders) if folders else ''
    return [
        os.path.relpath(name, common or '.') if is_file else name
        for name, is_file in zip(names, files, strict=True)
    ]


def _size(tensor: Tensor) -> str:
    return f'{tensor.shape[-2]} x {tensor.shape[-1]}'
