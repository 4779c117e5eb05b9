"""Street View House Numbers as one array."""

import os

import numpy as np
from mmengine.registry import DATASETS
from torchvision.datasets import SVHN

from mmkd_plugin.utils.checks import check_choice, check_flag

from .array_images import ArrayImages


@DATASETS.register_module()
class SVHNImages(ArrayImages):
    """Read the cropped digits of SVHN, 32x32 pixels.

    Netzer et al., Reading Digits in Natural Images with Unsupervised Feature
    Learning, NIPS Workshop 2011, http://ufldl.stanford.edu/housenumbers.
    73,257 images are in ``'train'``, 26,032 in ``'test'`` and 531,131 in
    ``'extra'``.

    torchvision reads them, and compares the file's MD5 each time. It needs
    SciPy for that. Nothing is downloaded.

    Args:
        data_root (str): Folder of the ``.mat`` files.
        split (str): ``'train'``, ``'test'`` or ``'extra'``. Defaults to
            ``'train'``.
        with_label (bool): Whether to keep the labels. Defaults to False:
            images of another domain than the teacher's have none.

    Raises:
        FileNotFoundError: If the file is not there.
        ImportError: If SciPy is not installed.
        ValueError: If an option is wrong, or if the file is not the original
            one.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        *,
        with_label: bool = False,
    ) -> None:
        check_choice('split', split, SVHN.split_list)
        check_flag('with_label', with_label)
        path = os.path.join(data_root, SVHN.split_list[split][1])
        command = (
            'python -c "from torchvision.datasets import SVHN; '
            f'SVHN({data_root!r}, {split!r}, download=True)"'
        )
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f'there is no {path}\n    make it by: {command}'
            )
        try:
            source = SVHN(data_root, split, download=False)
        except ImportError as error:
            raise ImportError(
                'SVHNImages needs SciPy: pip install scipy'
            ) from error
        except RuntimeError as error:
            raise ValueError(
                f'{path} is not the original file, as after a download that '
                f'was cut off\n    make it anew by: {command}'
            ) from error
        super().__init__(
            np.ascontiguousarray(source.data.transpose(0, 2, 3, 1)),
            source.labels if with_label else None,
            [str(digit) for digit in range(10)],
        )
