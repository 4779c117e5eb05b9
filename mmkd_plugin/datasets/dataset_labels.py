"""The labels of a whole data set."""

import contextlib

import numpy as np
from torch.utils.data import Dataset


def dataset_labels(dataset: Dataset, user: str) -> np.ndarray:
    """Get the label of every image without reading an image.

    Args:
        dataset (Dataset): The images, with ``labels`` or
            ``get_gt_labels()``.
        user (str): Who needs them, for the message.

    Returns:
        np.ndarray: Shape ``(len(dataset),)``.

    Raises:
        ValueError: If there are none, or not one an image.
    """
    labels = getattr(dataset, 'labels', None)
    if labels is None and hasattr(dataset, 'get_gt_labels'):
        # An unlabeled data set of mmpretrain.
        with contextlib.suppress(KeyError):
            labels = dataset.get_gt_labels()
    if labels is None:
        raise ValueError(
            f'{user} needs the labels of the images, but got '
            f'{type(dataset).__name__}, which gives none by labels or '
            f'get_gt_labels(): use a labeled data set (with_label=True)'
        )
    labels = np.asarray(labels)
    if labels.shape != (len(dataset),):
        raise ValueError(
            f'one label an image is needed, but got labels of shape '
            f'{labels.shape} for {len(dataset)} images'
        )
    return labels
