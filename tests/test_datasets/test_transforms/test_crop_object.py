"""Crops around objects, and what keeps image and foreground together."""

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets.transforms import PackInputs
from PIL import Image

from mmkd_plugin.datasets import CropObject


def sample(height=20, width=30, **extra) -> dict:
    """A sample whose pixels say where they come from."""
    rows, cols = np.mgrid[:height, :width].astype(np.uint8)
    img = np.stack([rows, cols, rows], axis=-1)
    return dict(img=img, img_path='a.jpg', ori_shape=(height, width), **extra)


def corners(result: dict) -> list:
    """The box of the crop: ``[x1, y1, x2, y2]``, half open."""
    img = result['img']
    assert result['img_shape'] == img.shape[:2]
    (top, left), (bottom, right) = img[0, 0, :2], img[-1, -1, :2]
    assert img.shape == (bottom - top + 1, right - left + 1, 3)
    return [int(left), int(top), int(right) + 1, int(bottom) + 1]


@pytest.mark.parametrize(
    'scale, box, expected',
    [
        (1, [5, 6, 15, 11], [5, 6, 15, 11]),
        (1.2, [5, 6, 15, 16], [4, 5, 16, 17]),
        (1.5, [10, 4, 18, 12], [8, 2, 20, 14]),
        # Floats: 4.4 - 0.56 = 3.84, 10.0 + 0.56 = 10.56.
        (1.2, [4.4, 4.4, 10, 10], [4, 4, 11, 11]),
        # Cut off at the border, not moved.
        (1.5, [0, 0, 8, 8], [0, 0, 10, 10]),
        (2, [20, 10, 30, 20], [15, 5, 30, 20]),
        (1, [-4, -4, 3, 90], [0, 0, 3, 20]),
        # Between centres: the pixel that holds the middle.
        (1, [7.6, 3.1, 7.8, 3.2], [7, 3, 8, 4]),
    ],
)
def test_box(scale, box, expected):
    result = CropObject(scale)(sample(object_box=box))
    assert corners(result) == expected
    assert 'gt_seg_map' not in result


def test_default_is_that_of_voc():
    crop = TRANSFORMS.build(dict(type='CropObject'))
    assert crop.scale == 1.2
    assert repr(crop) == 'CropObject(scale=1.2)'


def test_box_of_the_mask():
    mask = np.zeros((20, 30), np.uint8)
    mask[6, 7] = mask[15, 10] = mask[9, 16] = 1
    result = CropObject(1.2)(sample(gt_seg_map=mask))
    assert corners(result) == [6, 5, 18, 17]
    assert np.array_equal(result['gt_seg_map'], mask[5:17, 6:18])
    # A given box goes before the mask, which is cropped all the same.
    result = CropObject(1)(sample(gt_seg_map=mask, object_box=[7, 6, 9, 16]))
    assert corners(result) == [7, 6, 9, 16]
    assert np.array_equal(result['gt_seg_map'], mask[6:16, 7:9])


@pytest.mark.parametrize(
    'extra, message',
    [
        ({}, r'a\.jpg has neither: put LoadForeground before it'),
        (dict(gt_seg_map=np.zeros((20, 30))), r'a\.jpg: its foreground is em'),
        (dict(object_box=[3, 3, 3, 9]), r'a\.jpg: .* got \[3, 3, 3, 9\]'),
        (dict(object_box=[30, 3, 33, 9]), r'a\.jpg: .* outside .* 20 x 30'),
    ],
)
def test_no_object(extra, message):
    with pytest.raises(ValueError, match=message):
        CropObject()(sample(**extra))


def test_not_after_a_change():
    with pytest.raises(ValueError, match='put LoadImageFromFile before it'):
        CropObject()(dict(object_box=[0, 0, 2, 2]))
    done = CropObject()(sample(object_box=[5, 6, 15, 16]))
    with pytest.raises(ValueError, match=r'from \(20, 30\) to \(12, 12\)'):
        CropObject()(done)


@pytest.mark.parametrize('scale', [0.9, 0, -1, float('nan'), '1.2', None])
def test_scale(scale):
    with pytest.raises(ValueError, match='scale must be a finite number'):
        CropObject(scale)


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_image_and_mask_stay_together(tmp_path, direction):
    """The mask is painted into the image, and is found there at the end."""
    rng = np.random.default_rng(0)
    # Large blocks, so that a resize blurs only their edges.
    mask = np.kron(rng.integers(0, 2, (5, 8)), np.ones((16, 16))) * 255
    mask = mask.astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    painted = np.stack([mask, mask, np.full_like(mask, 40)], axis=-1)
    Image.fromarray(painted).save(tmp_path / 'image.png')
    pipeline = Compose(
        [
            dict(type='LoadImageFromFile'),
            dict(type='LoadForeground'),
            dict(type='CropObject', scale=1.1),
            dict(type='Resize', scale=(96, 96)),
            dict(type='RandomFlip', prob=1.0, direction=direction),
            dict(type='CenterCrop', crop_size=64),
            PackInputs(algorithm_keys=('gt_seg_map',)),
        ]
    )
    packed = pipeline(
        dict(
            img_path=str(tmp_path / 'image.png'),
            gt_label=3,
            foreground=dict(mask_path=str(tmp_path / 'mask.png')),
            object_box=[20, 10, 100, 70],
        )
    )
    found = packed['data_samples'].gt_seg_map
    image = packed['inputs'].numpy()
    assert found.shape == (64, 64) and found.dtype == np.uint8
    assert np.unique(found).tolist() == [0, 1]
    assert image.shape == (3, 64, 64)
    # BGR: the mask was painted into red and green.
    assert np.unique(image[0]).tolist() == [40]
    seen = image[2] > 127
    assert (seen == (found > 0)).mean() > 0.95
    for axes in (0, 1, (0, 1)):
        assert (seen == (np.flip(found, axes) > 0)).mean() < 0.9
    sample = packed['data_samples']
    assert sample.gt_label.tolist() == [3]
    assert sample.metainfo['img_path'] == str(tmp_path / 'image.png')
