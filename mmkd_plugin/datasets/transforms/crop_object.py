"""The object alone, with a margin around it."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from mmkd_plugin.utils.checks import check_number

from .stored_image import box_slices, check_stored, image_name


@TRANSFORMS.register_module()
class CropObject(BaseTransform):
    """Crop the image to its object, and the foreground map with it.

    The box is enlarged about its centre and then cut off at the border of
    the image, so the object need not be in the middle of the result, nor is
    the result square. Pixels are kept whose centres lie inside, and at least
    one row and one column.

    **Required Keys:**

    - img
    - object_box: ``[x1, y1, x2, y2]``, half open, in pixels of the stored
      image. Without it the bounding box of ``gt_seg_map`` is taken.

    **Modified Keys:**

    - img
    - img_shape
    - gt_seg_map (optional)

    Args:
        scale (float): Width and height of the result in those of the box,
            at least 1. The released code of Cheng et al., Explaining
            Knowledge Distillation by Quantifying the Knowledge, CVPR 2020,
            has 1.2 for VOC2012. About 1.5 for ILSVRC-DET is derived, not
            read there: that code takes fixed cells as the foreground, from
            ``int(16 / 6)`` to ``int(16 * 5 / 6)`` of 16, and the middle two
            thirds are the box in a crop of 1.5 times its size. Defaults to
            1.2.

    Raises:
        ValueError: If the scale is wrong, if there is no image yet or if it
            was changed before, if there is neither a box nor a map, if the
            map is empty, or if the box is none or outside of the image.
    """

    def __init__(self, scale: float = 1.2) -> None:
        self.scale = check_number('scale', scale, least=1)

    def transform(self, results: dict) -> dict:
        """Crop a sample.

        Args:
            results (dict): The sample.

        Returns:
            dict: The same one.
        """
        shape = check_stored(results, 'CropObject')
        name = image_name(results)
        mask = results.get('gt_seg_map')
        box = results.get('object_box')
        where = f'object of {name}'
        if box is None:
            box = self._bounding_box(mask, name)
        # Tells a wrong box by its own numbers, before they are enlarged.
        box_slices(box, shape, where)
        x1, y1, x2, y2 = map(float, box)
        right, down = (x2 - x1) * self.scale / 2, (y2 - y1) * self.scale / 2
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        rows, cols = box_slices(
            [x - right, y - down, x + right, y + down], shape, where
        )
        rows, cols = (
            self._at_least_one(rows, y, shape[0]),
            self._at_least_one(cols, x, shape[1]),
        )
        results['img'] = np.ascontiguousarray(results['img'][rows, cols])
        results['img_shape'] = results['img'].shape[:2]
        if mask is not None:
            results['gt_seg_map'] = np.ascontiguousarray(mask[rows, cols])
        return results

    @staticmethod
    def _bounding_box(mask, name: str) -> list[int]:
        if mask is None:
            raise ValueError(
                f"CropObject needs 'object_box', which the data set has to "
                f"provide, or 'gt_seg_map', but {name} has neither: put "
                'LoadForeground before it'
            )
        if not mask.any():
            raise ValueError(
                f'CropObject finds no object in {name}: its foreground is '
                'empty'
            )
        rows = np.flatnonzero(mask.any(axis=1))
        cols = np.flatnonzero(mask.any(axis=0))
        return [
            int(edge)
            for edge in (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
        ]

    @staticmethod
    def _at_least_one(pixels: slice, centre: float, size: int) -> slice:
        if pixels.start < pixels.stop:
            return pixels
        first = min(max(int(centre), 0), size - 1)
        return slice(first, first + 1)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(scale={self.scale})'
