"""Single objects of a JSON in the style of COCO."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

from mmengine.registry import DATASETS

from mmkd_plugin.utils.checks import (
    check_choice,
    check_flag,
    check_number,
    nearest,
)

from .object_dataset import ObjectDataset, first_few


@DATASETS.register_module()
class COCOObjects(ObjectDataset):
    """Classify single objects of a data set that is annotated as COCO is.

    Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014,
    https://cocodataset.org/#format-data. An entry is an object, see
    :class:`ObjectDataset`; its ``object_id`` is the id of the annotation.

    Nothing but :mod:`json` is needed here. Polygons and run lengths (both
    compressed and uncompressed) are decoded by ``LoadForeground``.

    Args:
        ann_file (str): The JSON, with ``images``, ``annotations`` and
            ``categories``.
        img_dir (str): Folder that the images' ``file_name`` is relative to.
        data_root (str): What relative paths are relative to. Defaults to
            ``''``.
        classes (str | Sequence[str], optional): Names of categories to keep,
            labeled in this order, or a file with one a line. None means all,
            in the order of their ids. Defaults to None.
        min_area (float): Least area of an object in square pixels: the
            annotation's ``area``, or that of the box where there is none.
            Defaults to 0.
        with_crowd (bool): Whether to keep the regions that are marked as
            crowds. Defaults to False.
        foreground (str): ``'segmentation'`` or ``'box'``. Defaults to
            ``'segmentation'``.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``, such as
            ``pipeline``.

    Raises:
        FileNotFoundError: If the JSON or an image is missing.
        ValueError: If an option is wrong, if the JSON is malformed, if
            objects have no segmentation although the foreground is made of
            it, or if no object is left.
    """

    def __init__(
        self,
        ann_file: str,
        img_dir: str,
        data_root: str = '',
        classes: Union[str, Sequence[str], None] = None,
        min_area: float = 0,
        with_crowd: bool = False,
        foreground: str = 'segmentation',
        **kwargs,
    ) -> None:
        self.min_area = check_number('min_area', min_area, least=0)
        self.with_crowd = check_flag('with_crowd', with_crowd)
        check_choice('foreground', foreground, ('segmentation', 'box'))
        self.foreground = foreground
        super().__init__(
            classes=classes,
            ann_file=ann_file,
            data_root=data_root,
            data_prefix=dict(img_path=img_dir),
            **kwargs,
        )

    @property
    def source(self) -> str:
        """The JSON."""
        return self.ann_file

    def load_objects(self) -> Iterator[tuple[Optional[dict], str]]:
        """Give every annotation."""
        content = self._read()
        images = self._by_id(content, 'images', 'file_name')
        categories = self._by_id(content, 'categories', 'name')
        annotations = self._by_id(content, 'annotations')
        labels = self._labels(categories)
        bare = []
        for key, annotation in annotations.items():
            owner = f'{self.ann_file}: annotation {key}'
            category = _known(annotation, 'category_id', categories, owner)
            image = images[_known(annotation, 'image_id', images, owner)]
            box = _half_open(annotation.get('bbox'), owner)
            reason = self._reason(annotation, box, category in labels, owner)
            if reason:
                yield None, reason
                continue
            file_name = image['file_name']
            name = f'{os.path.splitext(file_name)[0]}#{key}'
            if self.foreground == 'box':
                foreground = dict(boxes=[box])
            else:
                foreground = _segmentation(annotation, image, owner)
                if foreground is None:
                    bare.append(name)
                    continue
            info = dict(
                img_path=os.path.join(self.img_prefix, file_name),
                gt_label=labels[category],
                object_box=box,
                foreground=foreground,
                object_id=key,
                name=name,
            )
            yield info, ''
        if bare:
            raise ValueError(
                f'{self.ann_file}: {len(bare)} objects have no segmentation: '
                f"{first_few(bare)}. Take boxes with foreground='box'"
            )

    def _read(self) -> dict:
        if not os.path.isfile(self.ann_file):
            raise FileNotFoundError(
                f'there is no annotation file {self.ann_file}'
            )
        try:
            with open(self.ann_file, encoding='utf-8') as file:
                content = json.load(file)
        except ValueError as error:
            raise ValueError(
                f'{self.ann_file} is no complete JSON: {error}'
            ) from error
        wanted = ('images', 'annotations', 'categories')
        if not isinstance(content, dict):
            raise ValueError(
                f'{self.ann_file} must hold a dict with {wanted}, but holds '
                f'a {type(content).__name__}'
            )
        for key in wanted:
            if not isinstance(content.get(key), list):
                raise ValueError(f'{self.ann_file} has no list {key!r}')
        return content

    def _by_id(
        self, content: dict, table: str, text: Optional[str] = None
    ) -> dict[int, dict]:
        """Index a list of the JSON; its order stays.

        Args:
            content (dict): The JSON.
            table (str): Name of the list.
            text (str, optional): What its rows must state in words. Defaults
                to None.

        Returns:
            dict[int, dict]: From ids to rows.
        """
        rows = {}
        for index, row in enumerate(content[table]):
            owner = f'{self.ann_file}: {table}[{index}]'
            key = row.get('id') if isinstance(row, dict) else None
            if type(key) is not int:
                raise ValueError(
                    f"{owner} must have an integer as its 'id', but has "
                    f'{key!r}'
                )
            if key in rows:
                raise ValueError(f'{owner} has the id {key} of another one')
            if text is not None and not isinstance(row.get(text), str):
                raise ValueError(
                    f'{owner} must have a text as its {text!r}, but has '
                    f'{row.get(text)!r}'
                )
            rows[key] = row
        return rows

    def _labels(self, categories: dict) -> dict[int, int]:
        """Map the ids of the categories to labels."""
        names = {key: categories[key]['name'] for key in sorted(categories)}
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(names.values())
            return {key: label for label, key in enumerate(names)}
        count = Counter(names.values())
        for name in self.CLASSES:
            if not count[name]:
                raise ValueError(
                    f'classes has {name!r}, which is no category of '
                    f'{self.ann_file} ({nearest(name, count)})'
                )
            if count[name] > 1:
                raise ValueError(
                    f'{self.ann_file} has {count[name]} categories that are '
                    f'called {name!r}'
                )
        wanted = self.class_to_idx
        return {
            key: wanted[name] for key, name in names.items() if name in wanted
        }

    def _reason(
        self, annotation: dict, box: list[float], known: bool, owner: str
    ) -> str:
        """Say why an object is left out; empty if it is not."""
        if not known:
            return 'of other classes'
        if not self.with_crowd and annotation.get('iscrowd'):
            return 'crowds'
        width, height = box[2] - box[0], box[3] - box[1]
        if width <= 0 or height <= 0:
            return 'with an empty box'
        area = annotation.get('area', width * height)
        if not _is_number(area):
            raise ValueError(
                f'{owner} must have a finite number as its area, but has '
                f'{area!r}'
            )
        if area < self.min_area:
            return f'smaller than min_area={self.min_area}'
        return ''


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _known(annotation: dict, field: str, rows: dict, owner: str) -> int:
    """Get the id of a row that an annotation refers to."""
    key = annotation.get(field)
    if type(key) is not int or key not in rows:
        raise ValueError(f'{owner} has the unknown {field} {key!r}')
    return key


def _half_open(bbox: Any, owner: str) -> list[float]:
    """Turn x, y, width, height into x1, y1, x2, y2."""
    if not _is_numbers(bbox) or len(bbox) != 4:
        raise ValueError(
            f'{owner} must have the bbox [x, y, width, height], but has '
            f'{bbox!r}'
        )
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def _segmentation(annotation: dict, image: dict, owner: str) -> Optional[dict]:
    """Make the foreground of an object; None if it has no segmentation."""
    value = annotation.get('segmentation')
    if not value:
        return None
    if isinstance(value, dict):
        return dict(rle=_run_lengths(value, image, owner))
    for polygon in value if isinstance(value, list) else [value]:
        if not _is_numbers(polygon) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f'{owner} must have polygons [x, y, x, y, ...] of at least 3 '
                f'points as its segmentation, but has {_short(polygon)}'
            )
    return dict(polygons=value)


def _run_lengths(value: dict, image: dict, owner: str) -> dict:
    size, counts = value.get('size'), value.get('counts')
    if not _is_numbers(size) or len(size) != 2:
        raise ValueError(
            f'{owner} must have run lengths of the size [height, width], but '
            f'has {size!r}'
        )
    if not isinstance(counts, str) and not _is_numbers(counts):
        raise ValueError(
            f'{owner} must have run lengths with counts, a text or a list of '
            f'numbers, but has {_short(counts)}'
        )
    stated = [image.get('height') or size[0], image.get('width') or size[1]]
    if size != stated:
        raise ValueError(
            f'{owner} has run lengths of the size {size}, but its image '
            f'{image["file_name"]} is of the size {stated}'
        )
    return dict(size=size, counts=counts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:60]}...'
