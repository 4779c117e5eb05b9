"""Single objects of PASCAL VOC."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Optional, Union

from mmengine.registry import DATASETS
from mmpretrain.datasets import VOC

from mmkd_plugin.utils.checks import (
    check_choice,
    check_flag,
    check_number,
    nearest,
)

from .object_dataset import ObjectDataset
from .voc_xml import XmlObject, read_voc_xml


@DATASETS.register_module()
class VOCObjects(ObjectDataset):
    """Classify single objects of PASCAL VOC 2012.

    Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010,
    http://host.robots.ox.ac.uk/pascal/VOC/voc2012. An entry is an object,
    see :class:`ObjectDataset`; with ``CropObject(scale=1.2)`` in the pipeline
    it is what the released code of the knowledge points takes.

    The foreground is the object's own segmentation (pixels of the border,
    255, do not count) or its box. A VOC box ``xmin, ymin, xmax, ymax`` counts
    from 1 and includes both ends: half open and from 0 it is
    ``xmin - 1, ymin - 1, xmax, ymax``.

    Args:
        data_root (str): Folder that holds ``Annotations``, ``ImageSets`` and
            ``JPEGImages``. Defaults to ``'data/VOCdevkit/VOC2012'``.
        split (str): ``'train'``, ``'val'`` or ``'trainval'``. Defaults to
            ``'train'``.
        foreground (str): ``'segmentation'``: the images of
            ``ImageSets/Segmentation``, with the masks of
            ``SegmentationObject``. ``'box'``: those of ``ImageSets/Main``.
            Defaults to ``'segmentation'``.
        min_size (float): Least length, in pixels, of the shorter side of an
            object's box. Defaults to 0.
        skip_difficult (bool): Whether to leave out objects that are marked
            as difficult, which the masks may show as border. Defaults to
            True.
        classes (str | Sequence[str], optional): Some of VOC's 20 classes,
            labeled in this order, or a file with one a line. None means all,
            in VOC's order. Defaults to None.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``, such as
            ``pipeline``.

    Raises:
        FileNotFoundError: If the list of the images, an annotation, an image
            or a mask is missing.
        ValueError: If an option is wrong, if an annotation is malformed, if
            an image is listed twice, or if no object is left.
    """

    METAINFO = VOC.METAINFO

    def __init__(
        self,
        data_root: str = 'data/VOCdevkit/VOC2012',
        split: str = 'train',
        foreground: str = 'segmentation',
        min_size: float = 0,
        skip_difficult: bool = True,
        classes: Union[str, Sequence[str], None] = None,
        **kwargs,
    ) -> None:
        check_choice('split', split, ('train', 'val', 'trainval'))
        check_choice('foreground', foreground, ('segmentation', 'box'))
        self.split = split
        self.foreground = foreground
        self.min_size = check_number('min_size', min_size, least=0)
        self.skip_difficult = check_flag('skip_difficult', skip_difficult)
        names = self._class_names(classes)
        for name in names or ():
            if name not in self.METAINFO['classes']:
                raise ValueError(
                    f'classes has {name!r}, which is none of VOC '
                    f'({nearest(name, self.METAINFO["classes"])})'
                )
        super().__init__(
            classes=names,
            ann_file='',
            data_root=data_root,
            data_prefix=dict(
                img_path='JPEGImages',
                ann_path='Annotations',
                mask_path='SegmentationObject',
                list_path=os.path.join(
                    'ImageSets',
                    'Main' if foreground == 'box' else 'Segmentation',
                ),
            ),
            **kwargs,
        )

    @property
    def source(self) -> str:
        """The list of the images."""
        return os.path.join(self.data_prefix['list_path'], f'{self.split}.txt')

    def load_objects(self) -> Iterator[tuple[Optional[dict], str]]:
        """Give every object of the listed images."""
        labels = self.class_to_idx
        for image_id in self._image_ids():
            annotation = read_voc_xml(
                os.path.join(self.data_prefix['ann_path'], f'{image_id}.xml')
            )
            for obj in annotation.objects:
                xmin, ymin, xmax, ymax = obj.box
                box = [xmin - 1, ymin - 1, xmax, ymax]
                reason = self._reason(obj, box)
                if reason:
                    yield None, reason
                    continue
                info = dict(
                    img_path=os.path.join(self.img_prefix, f'{image_id}.jpg'),
                    gt_label=labels[obj.name],
                    object_box=box,
                    foreground=self._foreground(image_id, obj.number, box),
                    object_id=obj.number,
                    name=f'{image_id}#{obj.number}',
                )
                yield info, ''

    def _image_ids(self) -> list[str]:
        if not os.path.isfile(self.source):
            raise FileNotFoundError(
                f'there is no {self.source}; data_root must be the unpacked '
                f'folder VOCdevkit/VOC2012, but got {self.data_root!r}'
            )
        with open(self.source, encoding='utf-8') as file:
            ids = [line.split()[0] for line in file if line.strip()]
        twice = [image_id for image_id, n in Counter(ids).items() if n > 1]
        if twice:
            raise ValueError(
                f'{self.source} lists {len(twice)} images more than once, '
                f'such as {twice[0]}'
            )
        return ids

    def _reason(self, obj: XmlObject, box: list[float]) -> str:
        """Say why an object is left out; empty if it is not."""
        if obj.name not in self.CLASSES:
            return 'of other classes'
        if self.skip_difficult and obj.difficult:
            return 'difficult'
        side = min(box[2] - box[0], box[3] - box[1])
        if side <= 0:
            return 'with an empty box'
        if side < self.min_size:
            return f'smaller than min_size={self.min_size}'
        return ''

    def _foreground(
        self, image_id: str, number: int, box: list[float]
    ) -> dict:
        if self.foreground == 'box':
            return dict(boxes=[box])
        # An object's value in the mask is its place in the annotation, where
        # the objects that are left out count as well.
        path = os.path.join(self.data_prefix['mask_path'], f'{image_id}.png')
        return dict(mask_path=path, values=[number])
