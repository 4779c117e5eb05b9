"""The foreground of an image, from a mask, boxes or outlines."""

import io
from typing import Optional

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError

from mmkd_plugin.utils.checks import nearest

from .stored_image import box_slices, check_stored, image_name

KINDS = ('mask_path', 'boxes', 'polygons', 'rle')
# What Pillow calls files that are compressed with loss.
JPEG = ('JPEG', 'MPO')
# Modes of Pillow, each with how many of its channels count: not alpha.
CHANNELS = {
    **dict.fromkeys(('1', 'L', 'P', 'I', 'I;16', 'LA', 'PA'), 1),
    **dict.fromkeys(('RGB', 'RGBA'), 3),
}


@TRANSFORMS.register_module()
class LoadForeground(BaseTransform):
    """Make the map of the pixels that belong to the object.

    All foregrounds are in pixels of the image as it is stored. Where files
    have an EXIF orientation, the loader turns them unless it is
    ``LoadImageFromFile(color_type='color_ignore_orientation')``, and a turned
    image is an error. mmcv's ``Resize``, ``CenterCrop`` and ``RandomFlip``
    after it treat image and map alike; mmpretrain's ``ResizeEdge`` and random
    crops change the image alone.

    **Required Keys:**

    - img
    - foreground: a dict with exactly one of

      - ``mask_path``: an image file of the size of the image. Its pixels
        count whose value is one of ``values`` (list of int), or, without
        these, ``> above`` (a number, 0 where it is not given). With 0 the
        border of masks in VOC's style, whose value is 255, counts too:
        ``values``, as ``list(range(1, 21))``, leaves it out. In a JPEG file
        compression leaves faint traces around the objects, so there
        ``above`` or ``values`` must be given; 127 suits a mask of black and
        white. Palette images keep their indices, but for GIF, where colours
        count; masks of one bit have the values 0 and 1. Of several
        channels, one that counts is enough; alpha does not;
      - ``boxes``: a list of ``[x1, y1, x2, y2]``, half open, in pixels;
        pixels count whose centres lie inside of one of them;
      - ``polygons``: a list of ``[x, y, x, y, ...]``, as in COCO, drawn by
        pycocotools;
      - ``rle``: a dict of ``size`` (height, width) and ``counts``, as in
        COCO, compressed or not.

    **Added Keys:**

    - gt_seg_map: uint8, 0 or 1, shape ``(H, W)``

    Raises:
        FileNotFoundError: If a mask is missing.
        ImportError: If pycocotools is needed and not installed.
        ValueError: If there is no image yet, if it was changed before or
            turned when it was loaded, if ``foreground`` is malformed, if a
            mask in a JPEG file has neither ``above`` nor ``values``, or if a
            mask has another size than its image.
    """

    def transform(self, results: dict) -> dict:
        """Add the map to a sample.

        Args:
            results (dict): The sample.

        Returns:
            dict: The same one.
        """
        shape = check_stored(results, 'LoadForeground')
        name = image_name(results)
        foreground = results.get('foreground')
        if foreground is None:
            raise ValueError(
                "LoadForeground needs 'foreground', which the data set has "
                f'to provide, but {name} has {sorted(results)}. FolderWith'
                'Masks and CUBForeground are data sets that do'
            )
        options = _check_foreground(foreground, name)
        if 'mask_path' in options:
            marked = _read_mask(name=name, shape=shape, **options)
        elif 'boxes' in options:
            marked = np.zeros(shape, bool)
            for box in options['boxes']:
                marked[box_slices(box, shape, f'foreground of {name}')] = True
        elif 'polygons' in options:
            marked = _draw_polygons(options['polygons'], shape, name)
        else:
            marked = _decode_rle(options['rle'], shape, name)
        results['gt_seg_map'] = marked.astype(np.uint8)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


def _check_foreground(foreground: dict, name: str) -> dict:
    options = dict(foreground)
    given = [kind for kind in KINDS if kind in options]
    if len(given) != 1:
        raise ValueError(
            f'foreground of {name} must have exactly one of {KINDS}, but has '
            f'{sorted(options)}'
        )
    known = {given[0]}
    if given[0] == 'mask_path':
        known |= {'values', 'above'}
    for key in options:
        if key not in known:
            raise ValueError(
                f'foreground of {name} must not have {key!r} beside '
                f'{given[0]!r}; {nearest(key, known)}'
            )
    if 'values' in options and 'above' in options:
        raise ValueError(
            f'foreground of {name} must have values or above, not both'
        )
    if given[0] in ('boxes', 'polygons'):
        value = options[given[0]]
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError(
                f'foreground of {name}: {given[0]} must be a list of at '
                f'least one, but got {value!r}'
            )
    return options


def _check_size(
    what: str, size: tuple[int, int], shape: tuple[int, int], name: str
) -> None:
    if size == shape:
        return
    hint = ''
    if size == shape[::-1]:
        hint = (
            ', which is that of the mask turned: it must be in pixels of the '
            'image as stored, before any EXIF orientation'
        )
    raise ValueError(
        f'{what} has {size[0]} x {size[1]} pixels (height x width), but its '
        f'image {name} has {shape[0]} x {shape[1]}{hint}'
    )


def _read_mask(
    mask_path: str,
    shape: tuple[int, int],
    name: str,
    values: Optional[list[int]] = None,
    above: Optional[float] = None,
) -> np.ndarray:
    try:
        data = fileio.get(mask_path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'there is no mask {mask_path} of the image {name}'
        ) from error
    try:
        image = Image.open(io.BytesIO(data))
        if image.format == 'GIF':
            # Its writers order the palette as they like.
            image = image.convert('RGB')
        mask = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f'the mask {mask_path} of the image {name} cannot be read: {error}'
        ) from error
    if image.mode not in CHANNELS:
        raise ValueError(
            f'the mask {mask_path} of the image {name} must have one of the '
            f'modes {", ".join(CHANNELS)}, but has {image.mode!r}'
        )
    if values is None and above is None:
        if image.format in JPEG:
            raise ValueError(
                f'the mask {mask_path} of the image {name} is a JPEG file, '
                'which is not exact: say which values count, above=127 where '
                'the mask is black and white'
            )
        above = 0
    _check_size(f'the mask {mask_path}', mask.shape[:2], shape, name)
    channels = mask.reshape(*shape, -1)[..., : CHANNELS[image.mode]]
    counts = channels > above if values is None else np.isin(channels, values)
    return counts.any(axis=-1)


def _draw_polygons(
    polygons: list, shape: tuple[int, int], name: str
) -> np.ndarray:
    for polygon in polygons:
        try:
            points = np.asarray(polygon, dtype=float)
            good = points.ndim == 1 and np.isfinite(points).all()
        except (TypeError, ValueError):
            good = False
        # Lists of four numbers would be taken for boxes.
        if not good or len(points) < 6 or len(points) % 2:
            raise ValueError(
                f'foreground of {name}: a polygon must be [x, y, x, y, ...] '
                f'with at least three points, but got {polygon!r}'
            )
    coco = _coco_masks()
    drawn = coco.frPyObjects([list(p) for p in polygons], *shape)
    return coco.decode(coco.merge(drawn)).astype(bool)


def _decode_rle(rle: dict, shape: tuple[int, int], name: str) -> np.ndarray:
    where = f'foreground of {name}'
    try:
        size, counts = tuple(rle['size']), rle['counts']
    except (TypeError, KeyError) as error:
        raise ValueError(
            f'{where}: rle must be a dict of size (height, width) and '
            f'counts, but got {rle!r}'
        ) from error
    _check_size(f'the rle in the {where}', size, shape, name)
    try:
        if isinstance(counts, str):
            counts = counts.encode()
        if isinstance(counts, bytes):
            counts = _expand_counts(counts)
        if sum(counts) != np.prod(shape):
            raise ValueError(f'its runs add up to {sum(counts)}')
        runs = np.arange(len(counts)) % 2 == 1
        # Column by column.
        return np.repeat(runs, counts).reshape(shape[::-1]).T
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{where}: the counts of the rle are no code of {shape[0]} x '
            f'{shape[1]} pixels ({error}): {str(counts)[:60]}'
        ) from error


def _expand_counts(code: bytes) -> list[int]:
    """Get the run lengths of COCO's compressed form.

    pycocotools would decode it, but leaves the rest of the mask uninitialised
    where a code is cut off. Five bits a character, low ones first, and a
    sixth that says that the number goes on; signed; from the fourth on the
    difference to the last but one.
    """
    counts, value, shift = [], 0, 0
    for character in code:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f'{chr(character)!r} is no character of a code')
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value, shift = 0, 0
    if shift:
        raise ValueError('the last number of the code is cut off')
    return counts


def _coco_masks():
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            'LoadForeground needs pycocotools for polygons: '
            'pip install pycocotools'
        ) from error
    return mask
