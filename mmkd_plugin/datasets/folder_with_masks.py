"""A folder of images, and one of masks or a table of boxes."""

import logging
import os
from collections.abc import Sequence
from typing import Optional

from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.custom import find_folders, get_samples

from mmkd_plugin.utils.checks import check_number

from .boxes_table import read_boxes_table
from .object_dataset import first_few

# Those that mmpretrain's CustomDataset takes for images.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
MASK_SUFFIXES = ('.png', '.bmp', '.tif', '.gif', '.jpg')


@DATASETS.register_module()
class FolderWithMasks(BaseDataset):
    """Images of your own, and where in each the object is.

    The layout ::

        data_root/
        ├── images/
        │   ├── class_x/a.jpg
        │   └── class_y/b.jpg
        └── masks/
            ├── class_x/a.png
            └── class_y/b_mask.png

    The subfolders of ``img_dir`` are the classes, as in mmpretrain's
    ``CustomDataset``. Without subfolders the images have no label. The mask
    of an image has its relative path, with another suffix and perhaps
    ``_mask`` before it.

    Instead of masks there can be a table of boxes, see
    :func:`read_boxes_table`. Its files are relative to ``img_dir``, and its
    classes, where it has them, are taken rather than the subfolders.

    Masks and boxes are in pixels of the images as stored. Photographs may
    have an EXIF orientation, by which ``LoadImageFromFile`` would turn them:
    load them with ``color_type='color_ignore_orientation'``.

    Entries have ``foreground`` for :class:`LoadForeground`. With boxes they
    have ``object_box``, which encloses all boxes of the image, for
    :class:`CropObject`; with masks that finds the box in the loaded mask.

    Args:
        data_root (str): Folder that the other paths are relative to.
        img_dir (str): Folder of the images. Defaults to ``'images'``.
        mask_dir (str): Folder of the masks, beside ``img_dir``. Defaults to
            ``'masks'``.
        values (Sequence[int], optional): Pixels of a mask that have one of
            these values are foreground. Defaults to None, which means those
            ``> above``. Masks in VOC's style have their border, value 255, in
            the foreground unless ``values`` names the others.
        above (float, optional): See ``values``. Defaults to None, which means
            0, but an error for masks in JPEG files: compression leaves faint
            traces around their objects, which 127 leaves out.
        mask_suffix (str, optional): What follows the stem of the image in the
            name of its mask, as ``'.png'`` or ``'_seg.png'``. Defaults to
            None, which means any of .png, .bmp, .tif, .gif and .jpg.
        boxes_file (str, optional): The table of boxes, relative to
            ``data_root``. Defaults to None, which means masks.
        classes (str | Sequence[str], optional): Names of the classes, or a
            file of them, in the order of the labels. Defaults to None, which
            means those of the subfolders or of the table.
        **kwargs: Other options of mmpretrain's ``BaseDataset``, as
            ``pipeline`` and ``test_mode``.

    Raises:
        FileNotFoundError: If a folder or the table is missing.
        ValueError: If an option is wrong, if there is no image, if images
            have no mask or box, or more than one mask, if masks are JPEG
            files and neither ``above`` nor ``values`` is given, if images lie
            beside class folders, if the classes cannot be told, or if the
            table is malformed. Masks and boxes without an image are only a
            warning.
    """

    def __init__(
        self,
        data_root: str,
        img_dir: str = 'images',
        mask_dir: str = 'masks',
        *,
        values: Optional[Sequence[int]] = None,
        above: Optional[float] = None,
        mask_suffix: Optional[str] = None,
        boxes_file: Optional[str] = None,
        classes: Optional[str | Sequence[str]] = None,
        **kwargs,
    ) -> None:
        if above is not None:
            check_number('above', above, least=0)
        if values is not None:
            if (
                not isinstance(values, (list, tuple))
                or not values
                or any(type(value) is not int for value in values)
            ):
                raise ValueError(
                    f'values must be a list of integers, but got {values!r}'
                )
            if above is not None:
                raise ValueError(
                    'values and above exclude each other, but got '
                    f'{values!r} and {above!r}'
                )
        if mask_suffix is not None and '.' not in str(mask_suffix):
            raise ValueError(
                "mask_suffix must end like a file, as in '_seg.png', but got "
                f'{mask_suffix!r}'
            )
        self.values = values
        self.above = above
        self.mask_suffixes = (
            MASK_SUFFIXES if mask_suffix is None else (str(mask_suffix),)
        )
        self.mask_dir = os.path.join(data_root, mask_dir)
        self.boxes_file = boxes_file and os.path.join(data_root, boxes_file)
        self._check_paths(os.path.join(data_root, img_dir))
        super().__init__(
            ann_file='',
            data_root=data_root,
            data_prefix=img_dir,
            classes=classes,
            **kwargs,
        )

    def _check_paths(self, img_dir: str) -> None:
        missing = []
        if not os.path.isdir(img_dir):
            missing.append(f'folder of images {img_dir}')
        if self.boxes_file:
            if not os.path.isfile(self.boxes_file):
                missing.append(f'table of boxes {self.boxes_file}')
        elif not os.path.isdir(self.mask_dir):
            missing.append(f'folder of masks {self.mask_dir}')
        if missing:
            raise FileNotFoundError(f'there is no {" and no ".join(missing)}')
        if self.boxes_file:
            return
        paths = [os.path.realpath(path) for path in (img_dir, self.mask_dir)]
        if os.path.commonpath(paths) in paths:
            raise ValueError(
                'img_dir and mask_dir must lie beside each other, or masks '
                f'are taken for images, but got {img_dir!r} and '
                f'{self.mask_dir!r}'
            )

    def load_data_list(self) -> list[dict]:
        """Find the images, their classes and their masks or boxes.

        Returns:
            list[dict]: An entry an image, sorted by paths: ``img_path``,
            ``foreground``, where labeled ``gt_label``, and with boxes
            ``object_box``.
        """
        root = self.img_prefix
        folders, numbers = find_folders(root)
        names = get_samples(root, None, _is_image)[0]
        if not names:
            raise ValueError(
                f'there is no image in {root}, that is no file with one of '
                f'the suffixes {", ".join(EXTENSIONS)}'
            )
        if self.boxes_file:
            table = read_boxes_table(self.boxes_file, self.CLASSES)
            infos = self._with_boxes(names, table.boxes)
            labels, classes = table.labels, table.classes
        else:
            infos = self._with_masks(names)
            labels = classes = None
        if labels is None and folders:
            self._check_folders(names, folders)
            labels = {name: numbers[name.split(os.sep)[0]] for name in names}
            classes = folders
        if labels is None and self.CLASSES is not None:
            raise ValueError(
                f'classes has {len(self.CLASSES)} names, but nothing tells '
                f'the classes of the images: {root} has no subfolders'
            )
        if labels is not None:
            self._metainfo.setdefault('classes', tuple(classes))
            for name, info in zip(names, infos, strict=True):
                info['gt_label'] = labels[name]
        return infos

    def _check_folders(self, names: list[str], folders: list[str]) -> None:
        loose = [name for name in names if os.sep not in name]
        if loose:
            raise ValueError(
                f'{len(loose)} of {len(names)} images lie beside the class '
                f'folders ({first_few(folders)}) in {self.img_prefix}, not in '
                f'one: {first_few(loose)}'
            )
        if self.CLASSES is not None and len(self.CLASSES) != len(folders):
            raise ValueError(
                f'classes has {len(self.CLASSES)} names, but '
                f'{self.img_prefix} has {len(folders)} subfolders: '
                f'{first_few(folders)}'
            )

    def _with_masks(self, names: list[str]) -> list[dict]:
        there = {
            _plain_suffix(name): name
            for name in get_samples(self.mask_dir, None, self._is_mask)[0]
        }
        infos, missing, used = [], [], set()
        for name in names:
            mask = self._find_mask(name, there)
            if mask is None:
                missing.append(name)
                continue
            used.add(mask)
            foreground = dict(mask_path=os.path.join(self.mask_dir, mask))
            if self.values is not None:
                foreground['values'] = list(self.values)
            elif self.above is not None:
                foreground['above'] = self.above
            infos.append(self._entry(name, foreground))
        if missing:
            raise ValueError(
                f'{len(missing)} of {len(names)} images in {self.img_prefix} '
                f'have no mask in {self.mask_dir}: {first_few(missing)}. '
                'A mask has the same relative path and ends in '
                f'{", ".join(self.mask_suffixes)}, perhaps with _mask before '
                'it'
            )
        lossy = sorted(
            mask for mask in used if mask.lower().endswith(('.jpg', '.jpeg'))
        )
        if lossy and self.values is None and self.above is None:
            raise ValueError(
                f'{len(lossy)} of {len(used)} masks in {self.mask_dir} are '
                f'JPEG files, which are not exact: {first_few(lossy)}. Say '
                'which values count: above=127 where they are black and white'
            )
        _warn_unused('mask', set(there.values()) - used)
        return infos

    def _find_mask(self, name: str, there: dict[str, str]) -> Optional[str]:
        stem = os.path.splitext(name)[0]
        for tail in ('', '_mask'):
            found = [
                there[key]
                for suffix in self.mask_suffixes
                if (key := _plain_suffix(stem + tail + suffix)) in there
            ]
            if len(found) > 1:
                raise ValueError(
                    f'the image {name} has the masks {first_few(found)} in '
                    f'{self.mask_dir}: choose one kind by mask_suffix'
                )
            if found:
                return found[0]
        return None

    def _is_mask(self, name: str) -> bool:
        return _plain_suffix(name).endswith(
            tuple(map(_plain_suffix, self.mask_suffixes))
        )

    def _with_boxes(
        self, names: list[str], boxes: dict[str, list[list[float]]]
    ) -> list[dict]:
        missing = [name for name in names if name not in boxes]
        if missing:
            raise ValueError(
                f'{len(missing)} of {len(names)} images in {self.img_prefix} '
                f'have no box in {self.boxes_file}: {first_few(missing)}'
            )
        _warn_unused('box', boxes.keys() - set(names))
        infos = []
        for name in names:
            left, top, right, bottom = zip(*boxes[name], strict=True)
            info = self._entry(name, dict(boxes=boxes[name]))
            info['object_box'] = [min(left), min(top), max(right), max(bottom)]
            infos.append(info)
        return infos

    def _entry(self, name: str, foreground: dict) -> dict:
        path = os.path.join(self.img_prefix, name)
        return dict(img_path=path, foreground=foreground)

    def extra_repr(self) -> list[str]:
        """Tell where the images and their foregrounds are."""
        return [
            f'Images:           \t{self.img_prefix}',
            f'Foreground:       \t{self.boxes_file or self.mask_dir}',
        ]


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _plain_suffix(name: str) -> str:
    """Write the suffix small: cameras and old tools write it large."""
    stem, dot, suffix = name.rpartition('.')
    return stem + dot + suffix.lower()


def _warn_unused(what: str, names: set[str]) -> None:
    if names:
        print_log(
            f'{len(names)} files have a {what}, but no image: '
            f'{first_few(sorted(names))}',
            logger='current',
            level=logging.WARNING,
        )
