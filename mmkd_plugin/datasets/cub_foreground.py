"""CUB-200-2011 with the outlines or the boxes of the birds."""

import os

from mmengine.registry import DATASETS
from mmpretrain.datasets import CUB

from mmkd_plugin.utils.checks import check_choice, check_number

from .object_dataset import first_few

FOREGROUNDS = ('segmentation', 'box')
SPLITS = ('train', 'test')


@DATASETS.register_module()
class CUBForeground(CUB):
    """mmpretrain's CUB, and where in each image the bird is.

    Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011,
    https://www.vision.caltech.edu/datasets/cub_200_2011.

    To the folder that ``CUB`` reads come ``bounding_boxes.txt``, which the
    archive holds, and ``segmentations``, which is an archive of its own:
    ``segmentations/CLASS/IMAGE.png`` goes with ``images/CLASS/IMAGE.jpg``.
    Entries have ``foreground`` for :class:`LoadForeground` and, where the
    boxes are there, ``object_box`` for :class:`CropObject`. The box of a row
    ``x y w h`` is taken to be ``[x, y, x + w, y + h]``, half open (the
    archive does not say whether pixels are counted from 0: inferred).

    Args:
        data_root (str): Folder of the data set.
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        foreground (str): ``'segmentation'`` or ``'box'``. Defaults to
            ``'segmentation'``.
        above (float): Pixels of a segmentation count that are brighter: its
            grey levels, 0 to 255, say how many of the annotators put them
            into the bird. Defaults to 127, about half of them.
        **kwargs: Other options of mmpretrain's ``CUB``, as ``pipeline`` and
            ``test_mode``.

    Raises:
        FileNotFoundError: If the segmentations or the boxes that are asked
            for are missing.
        ValueError: If an option is wrong, or a file is malformed.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        *,
        foreground: str = 'segmentation',
        above: float = 127,
        **kwargs,
    ) -> None:
        check_choice('split', split, SPLITS)
        self.foreground = check_choice('foreground', foreground, FOREGROUNDS)
        self.above = check_number('above', above, least=0, below=255)
        super().__init__(data_root=data_root, split=split, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load images, labels and foregrounds.

        Returns:
            list[dict]: An entry an image: ``img_path``, ``gt_label``,
            ``foreground`` and, where known, ``object_box``.
        """
        # First what is cheap to check.
        boxes = self._load_boxes()
        if self.foreground == 'segmentation':
            self._check_segmentations()
        data_list = super().load_data_list()
        missing = []
        for info in data_list:
            name = os.path.relpath(info['img_path'], self.img_prefix)
            if boxes is not None:
                if name not in boxes:
                    raise ValueError(
                        f'{self._boxes_file} has no box of {name}'
                    )
                info['object_box'] = boxes[name]
            if self.foreground == 'box':
                info['foreground'] = dict(boxes=[boxes[name]])
                continue
            path = os.path.join(
                self._segmentations, os.path.splitext(name)[0] + '.png'
            )
            if not os.path.isfile(path):
                missing.append(path)
            info['foreground'] = dict(mask_path=path, above=self.above)
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(data_list)} images have no '
                f'segmentation: {first_few(missing)}. Unpack '
                "segmentations.tgz again, or take foreground='box'"
            )
        return data_list

    @property
    def _segmentations(self) -> str:
        return os.path.join(self.data_root, 'segmentations')

    @property
    def _boxes_file(self) -> str:
        return os.path.join(self.data_root, 'bounding_boxes.txt')

    def _check_segmentations(self) -> None:
        if not os.path.isdir(self._segmentations):
            raise FileNotFoundError(
                f'there is no {self._segmentations}: unpack segmentations.tgz,'
                ' an archive of its own beside CUB_200_2011.tgz, into '
                f"{self.data_root}, or take foreground='box'"
            )

    def _load_boxes(self):
        """Boxes by the names of their images, None where there is no file."""
        path = self._boxes_file
        if not os.path.isfile(path):
            if self.foreground == 'box':
                raise FileNotFoundError(
                    f"foreground='box' needs {path}, which CUB_200_2011.tgz "
                    'holds'
                )
            return None
        names = self._load_data_from_txt(self.ann_file)
        boxes = {}
        with open(path, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    index, *box = line.split()
                    name = names[int(index) - 1]
                    x, y, width, height = map(float, box)
                except (KeyError, ValueError) as error:
                    raise ValueError(
                        f'{path}, line {number}: expected the id of an image '
                        f'of {self.ann_file} and x y width height, but got '
                        f'{line.strip()!r}'
                    ) from error
                boxes[name] = [x, y, x + width, y + height]
        return boxes

    def extra_repr(self) -> list[str]:
        """Tell what the foreground is, beside what CUB tells."""
        return [
            *super().extra_repr(),
            f'Foreground:       \t{self.foreground}',
        ]
