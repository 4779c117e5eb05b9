"""What data sets of single objects have in common."""

import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Optional, Union

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset


class ObjectDataset(BaseDataset, ABC):
    """A data set that has an entry for each object, not for each image.

    An entry holds

    * ``img_path`` (str), ``gt_label`` (int),
    * ``object_box`` (list[float]): x1, y1, x2, y2 in pixels of the stored
      image, half open: what ``CropObject`` crops to,
    * ``foreground`` (dict): what ``LoadForeground`` makes ``gt_seg_map`` of,
    * ``object_id`` (int) and ``name`` (str), as ``'2007_000032#2'``,
      which tells the objects of an image apart. ``PackInputs`` passes them
      on where ``meta_keys`` names them.

    A subclass yields its objects in :meth:`load_objects`. How many of them
    are left out, and why, is logged and kept in ``left_out``.

    Args:
        classes (str | Sequence[str], optional): The classes to keep, labeled
            in this order, or a file with one a line. None leaves them to the
            subclass. Defaults to None.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``.

    Raises:
        FileNotFoundError: If an image or a mask of an entry is missing. The
            message names file and entry.
        ValueError: If a class is given twice, or if no object is left.
    """

    def __init__(
        self, classes: Union[str, Sequence[str], None] = None, **kwargs
    ) -> None:
        self.left_out: dict[str, int] = {}
        super().__init__(classes=self._class_names(classes), **kwargs)

    @property
    @abstractmethod
    def source(self) -> str:
        """File or folder that the objects are listed in."""

    @abstractmethod
    def load_objects(self) -> Iterator[tuple[Optional[dict], str]]:
        """Give every object that is annotated.

        Yields:
            tuple[dict or None, str]: Its entry and an empty text; or None
            and the reason for which it is left out.
        """

    def load_data_list(self) -> list[dict]:
        """Load the entries of the objects that are not left out."""
        data_list = []
        left_out = Counter()
        for info, reason in self.load_objects():
            if reason:
                left_out[reason] += 1
            else:
                data_list.append(info)
        self.left_out = dict(left_out)
        counts = self._counts()
        if not data_list:
            raise ValueError(
                f'{type(self).__name__} finds no object in {self.source}: '
                + (
                    f'left out are {counts}'
                    if counts
                    else 'none is annotated there'
                )
            )
        self._check_files(data_list)
        images = len({info['img_path'] for info in data_list})
        print_log(
            f'{type(self).__name__}: {len(data_list)} objects in {images} '
            f'images of {self.source}; left out: {counts or "none"}',
            'current',
        )
        seen = {info['gt_label'] for info in data_list}
        absent = [c for i, c in enumerate(self.CLASSES) if i not in seen]
        if absent:
            print_log(
                f'{type(self).__name__}: no object of {len(absent)} of the '
                f'{len(self.CLASSES)} classes: {first_few(absent)}',
                'current',
                logging.WARNING,
            )
        return data_list

    def extra_repr(self) -> list[str]:
        """The extra repr information of the dataset."""
        return [
            f'Annotations: \t{self.source}',
            f'Prefix of images: \t{self.img_prefix}',
            f'Left out: \t{self._counts() or "none"}',
        ]

    def _class_names(
        self, classes: Union[str, Sequence[str], None]
    ) -> Optional[tuple[str, ...]]:
        """Read and check the option ``classes``; None stays None."""
        names = self._compat_classes(None, classes).get('classes')
        if names is not None and not (
            names
            and all(isinstance(name, str) for name in names)
            and len(set(names)) == len(names)
        ):
            raise ValueError(
                f'classes must be different names, at least one, but got '
                f'{list(names)!r}'
            )
        return names

    def _counts(self) -> str:
        return ', '.join(f'{n} {why}' for why, n in self.left_out.items())

    @staticmethod
    def _check_files(data_list: list[dict]) -> None:
        """Raise if files are missing, once for all of them."""
        owners = {}
        for info in data_list:
            for path in (
                info['img_path'],
                info['foreground'].get('mask_path'),
            ):
                if path is not None:
                    owners.setdefault(path, info['name'])
        missing = [
            f'{path} (of {name})'
            for path, name in owners.items()
            if not os.path.isfile(path)
        ]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(owners)} images and masks are '
                f'missing: {first_few(missing)}'
            )


def first_few(texts: Sequence[str], count: int = 5) -> str:
    """List some texts, and say whether there are more.

    Args:
        texts (Sequence[str]): The texts.
        count (int): How many to list at most. Defaults to 5.

    Returns:
        str: ``'a, b'``, or ``'a, b, c, d, e, ... (7 in all)'``.
    """
    more = f', ... ({len(texts)} in all)' if len(texts) > count else ''
    return ', '.join(texts[:count]) + more
