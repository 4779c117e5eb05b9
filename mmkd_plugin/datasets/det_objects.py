"""Single objects of the detection set of ILSVRC."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional, Union

from mmengine.registry import DATASETS
from mmengine.utils import scandir

from .object_dataset import ObjectDataset
from .voc_xml import XmlAnnotation, read_voc_xml


@DATASETS.register_module()
class DETObjects(ObjectDataset):
    """Classify single objects of ILSVRC-DET, or of other ImageNet boxes.

    Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge,
    IJCV 2015, https://www.image-net.org/challenges/LSVRC. An entry is an
    object, see :class:`ObjectDataset`; its foreground is its box. The
    released code of the knowledge points takes fixed cells of its crops as
    the foreground, ``int(16 / 6)`` to ``int(16 * 5 / 6)`` of 16; that the
    crops have about 1.5 times the box, as with ``CropObject(scale=1.5)``, is
    derived from these. The code uses a subset of 12 'mammals', and which ones
    they are is not known here: ``classes`` must name them.

    Boxes are taken as counting from 0 and including both ends, so half open
    they are ``xmin, ymin, xmax + 1, ymax + 1``. Both ends are included in the
    evaluation of the official development kit; that they count from 0 is
    inferred from coordinates that are 0, and is written down nowhere.

    The image of ``ann_dir/A/X.xml`` is ``img_dir/A/X.JPEG``. Where there is
    none, it is looked for by the ``<folder>`` and ``<filename>`` in the XML.

    Args:
        ann_dir (str): Folder of the XML files, at any depth.
        img_dir (str): Folder of the images.
        data_root (str): What relative folders are relative to. Defaults to
            ``''``.
        classes (dict[str, str] | Sequence[str] | str, optional): WordNet ids
            to keep, labeled in this order: a dict from ids to names, a
            sequence of ids, or a file with one a line. None means all that
            are found, sorted. Defaults to None.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``, such as
            ``pipeline``.

    Raises:
        FileNotFoundError: If the folder of the XML files or an image is
            missing.
        ValueError: If a class is no WordNet id, if an annotation is
            malformed, or if no object is left.
    """

    def __init__(
        self,
        ann_dir: str,
        img_dir: str,
        data_root: str = '',
        classes: Union[Mapping[str, str], Sequence[str], str, None] = None,
        **kwargs,
    ) -> None:
        if isinstance(classes, Mapping):
            ids, names = tuple(classes), tuple(classes.values())
        else:
            ids = names = self._class_names(classes)
        for wnid in ids or ():
            if not re.fullmatch(r'n\d{8}', str(wnid)):
                raise ValueError(
                    f"classes must be WordNet ids such as 'n02084071', but "
                    f'got {wnid!r}'
                )
        self.wnids = ids
        super().__init__(
            classes=names,
            ann_file='',
            data_root=data_root,
            data_prefix=dict(img_path=img_dir, ann_path=ann_dir),
            **kwargs,
        )

    @property
    def source(self) -> str:
        """The folder of the XML files."""
        return self.data_prefix['ann_path']

    def load_objects(self) -> Iterator[tuple[Optional[dict], str]]:
        """Give every object of all XML files."""
        if not os.path.isdir(self.source):
            raise FileNotFoundError(
                f'there is no folder {self.source} (ann_dir)'
            )
        stems = [
            os.path.splitext(path)[0]
            for path in sorted(scandir(self.source, '.xml', recursive=True))
        ]
        annotations = {
            stem: read_voc_xml(os.path.join(self.source, f'{stem}.xml'))
            for stem in stems
        }
        if self.wnids is None:
            self.wnids = tuple(
                sorted(
                    {o.name for a in annotations.values() for o in a.objects}
                )
            )
            self._metainfo['classes'] = self.wnids
        labels = {wnid: label for label, wnid in enumerate(self.wnids)}
        for stem, annotation in annotations.items():
            img_path = None
            for obj in annotation.objects:
                xmin, ymin, xmax, ymax = obj.box
                if obj.name not in labels:
                    yield None, 'of other classes'
                    continue
                if xmax < xmin or ymax < ymin:
                    yield None, 'with an empty box'
                    continue
                if img_path is None:
                    img_path = self._image(stem, annotation)
                box = [xmin, ymin, xmax + 1, ymax + 1]
                info = dict(
                    img_path=img_path,
                    gt_label=labels[obj.name],
                    object_box=box,
                    foreground=dict(boxes=[box]),
                    object_id=obj.number,
                    name=f'{stem}#{obj.number}',
                )
                yield info, ''

    def _image(self, stem: str, annotation: XmlAnnotation) -> str:
        """Find an image; the usual path where there is none."""
        # The name of the XML file comes first, since some of ImageNet's have
        # a '%s' where the image should be named.
        usual = os.path.join(self.img_prefix, f'{stem}.JPEG')
        if os.path.isfile(usual) or not annotation.filename:
            return usual
        name = annotation.filename
        if not name.upper().endswith(('.JPEG', '.JPG')):
            name = f'{name}.JPEG'
        for folder in (os.path.dirname(stem), annotation.folder, ''):
            path = os.path.join(self.img_prefix, folder, name)
            if os.path.isfile(path):
                return path
        return usual
