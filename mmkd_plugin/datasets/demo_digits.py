"""The handwritten digits that scikit-learn ships, as images."""

from typing import Optional

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image

from mmkd_plugin.utils.checks import check_choice, check_count, check_number

from .array_images import ArrayImages

SPLITS = ('train', 'val', 'test')


@DATASETS.register_module()
class DemoDigits(ArrayImages):
    """Handwritten digits that are there without a download.

    The 1,797 digits of 8x8 pixels in scikit-learn (Alpaydin and Kaynak,
    Optical Recognition of Handwritten Digits, UCI, 1998), magnified. The
    splits are fixed and stratified by class: 900 images to train on, 299
    (``'val'``) to choose settings with, 598 (``'test'``) to report.

    Args:
        split (str): ``'train'``, ``'val'`` or ``'test'``. Defaults to
            ``'train'``.
        size (int): Height and width, pixels. Defaults to 16.
        num_images (int, optional): How many images of the split, every class
            in the same proportion; fewer ones are among more. Defaults to
            None, which is all.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        split: str = 'train',
        *,
        size: int = 16,
        num_images: Optional[int] = None,
    ) -> None:
        check_choice('split', split, SPLITS)
        check_number('size', size, least=8)
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                'DemoDigits needs scikit-learn: pip install scikit-learn'
            ) from error
        digits = load_digits()
        # Every class is dealt out in the same proportion.
        rng = np.random.default_rng(0)
        order = rng.permutation(len(digits.target))
        order = order[np.argsort(digits.target[order], kind='stable')]
        turn = np.arange(len(order)) % 6
        chosen = {
            'train': turn < 3,
            'val': turn == 3,
            'test': turn > 3,
        }[split]
        index = order[chosen]
        if num_images is not None:
            check_count('num_images', num_images)
            if num_images > len(index):
                raise ValueError(
                    f'num_images must be at most {len(index)}, the images of '
                    f'{split!r}, but got {num_images}'
                )
            # First the first of every class, then the second ones.
            labels = digits.target[index]
            place = np.arange(len(index)) - np.searchsorted(labels, labels)
            index = index[np.argsort(place, kind='stable')][:num_images]
        index = np.sort(index)
        grey = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
        large = [
            np.asarray(
                Image.fromarray(image).resize((size, size), Image.BICUBIC)
            )
            for image in grey
        ]
        images = np.repeat(np.stack(large)[..., None], 3, axis=3)
        super().__init__(
            images, digits.target[index], [str(d) for d in range(10)]
        )
