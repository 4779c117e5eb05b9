"""Foreground maps from masks, boxes, polygons and run lengths."""

import sys
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.registry import TRANSFORMS
from PIL import Image

from mmkd_plugin.datasets import LoadForeground

# Foreground of an image of 4 x 6 pixels, drawn by hand.
SHAPE = (4, 6)
OBJECT = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0, 0],
    ],
    np.uint8,
)


def load(**foreground) -> np.ndarray:
    sample = dict(
        img=np.zeros((*SHAPE, 3), np.uint8),
        img_path='a.jpg',
        ori_shape=SHAPE,
        foreground=foreground,
    )
    result = LoadForeground()(sample)
    assert result is sample
    assert result['gt_seg_map'].dtype == np.uint8
    return result['gt_seg_map']


def save(path, values, mode=None, **kwargs) -> str:
    Image.fromarray(values, mode=mode).save(path, **kwargs)
    return str(path)


def test_greys(tmp_path):
    levels = OBJECT * 9
    levels[2, 3] = 200
    path = save(tmp_path / 'a.png', levels)
    assert np.array_equal(load(mask_path=path), OBJECT)
    only = np.zeros(SHAPE, np.uint8)
    only[2, 3] = 1
    assert np.array_equal(load(mask_path=path, above=9), only)
    assert np.array_equal(load(mask_path=path, above=8), OBJECT)
    assert np.array_equal(load(mask_path=path, values=[200, 7]), only)
    assert np.array_equal(load(mask_path=path, values=[0]), 1 - OBJECT)


def test_traces_in_jpeg_files(tmp_path):
    levels = np.zeros(SHAPE, np.uint8)
    levels[1:, 2:4] = 255
    path = save(tmp_path / 'a.jpg', levels, quality=75)
    traces = np.asarray(Image.open(path))
    assert ((traces > 0) & (levels == 0)).any()
    with pytest.raises(
        ValueError, match=r'a\.jpg of the .* is a JPEG file.* above=127'
    ):
        load(mask_path=path)
    for options in (dict(above=127), dict(values=list(range(128, 256)))):
        assert np.array_equal(load(mask_path=path, **options), levels > 0)
    assert np.array_equal(load(mask_path=path, above=0), traces > 0)
    # What counts is the file, not its name.
    Path(path).rename(tmp_path / 'b.png')
    with pytest.raises(ValueError, match='is a JPEG file'):
        load(mask_path=str(tmp_path / 'b.png'))


def test_border_of_voc(tmp_path):
    levels = OBJECT * 7
    levels[0] = 255
    path = save(tmp_path / 'a.png', levels)
    assert np.array_equal(load(mask_path=path), levels > 0)
    classes = list(range(1, 21))
    assert np.array_equal(load(mask_path=path, values=classes), OBJECT)


def test_palette_keeps_its_indices(tmp_path):
    indices = OBJECT.copy()
    indices[0, 5] = 3
    image = Image.fromarray(indices, mode='P')
    # Index 0 is white and index 1 black: colours say nothing.
    image.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9, 0, 0, 0])
    image.save(tmp_path / 'a.png')
    path = str(tmp_path / 'a.png')
    assert np.array_equal(load(mask_path=path, values=[1]), OBJECT)
    three = load(mask_path=path, values=[3])
    assert np.argwhere(three).tolist() == [[0, 5]]
    assert np.array_equal(load(mask_path=path), OBJECT + three)


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tif', 'a.gif'])
def test_one_bit(tmp_path, name):
    Image.fromarray(OBJECT * 255).convert('1').save(tmp_path / name)
    assert np.array_equal(load(mask_path=str(tmp_path / name)), OBJECT)


def test_gif_has_colours(tmp_path):
    # The palette begins with white, so the indices are the other way round.
    image = Image.fromarray(1 - OBJECT, mode='P')
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / 'a.gif', optimize=False)
    path = str(tmp_path / 'a.gif')
    assert np.array_equal(np.asarray(Image.open(path)), 1 - OBJECT)
    assert np.array_equal(load(mask_path=path), OBJECT)
    assert np.array_equal(load(mask_path=path, values=[255]), OBJECT)


@pytest.mark.parametrize('dtype', [np.uint16, np.int32])
def test_wide_integers(tmp_path, dtype):
    path = save(tmp_path / 'a.tif', OBJECT.astype(dtype) * 40000)
    mask = load(mask_path=path, values=[40000])
    assert np.array_equal(mask, OBJECT)


def test_colours_count_and_alpha_does_not(tmp_path):
    colours = np.zeros((*SHAPE, 4), np.uint8)
    colours[..., 2] = OBJECT * 50
    colours[..., 3] = 255
    path = save(tmp_path / 'rgba.png', colours)
    assert np.array_equal(load(mask_path=path), OBJECT)
    path = save(tmp_path / 'rgb.png', np.ascontiguousarray(colours[..., :3]))
    assert np.array_equal(load(mask_path=path), OBJECT)
    path = save(tmp_path / 'la.png', colours[..., 2:].copy(), mode='LA')
    assert np.array_equal(load(mask_path=path), OBJECT)


@pytest.mark.parametrize(
    'box, rows, cols',
    [
        ([1, 2, 3, 4], (2, 4), (1, 3)),
        # The centres of pixels 1 and 3 are at 1.5 and 3.5.
        ([1.5, 0, 3.5, 1], (0, 1), (1, 3)),
        ([1.51, 0, 3.51, 1], (0, 1), (2, 4)),
        # Cut off at the border.
        ([-7, -0.2, 2, 90], (0, 4), (0, 2)),
        ([4.2, 3.5, 6.5, 4.5], (3, 4), (4, 6)),
        # Between two centres.
        ([2.6, 0, 3.4, 4], (0, 4), (0, 0)),
    ],
)
def test_box(box, rows, cols):
    expected = np.zeros(SHAPE, np.uint8)
    expected[slice(*rows), slice(*cols)] = 1
    assert np.array_equal(load(boxes=[box]), expected)


def test_boxes_add_up():
    mask = load(boxes=[[1, 1, 3, 3], [3, 2, 4, 4]])
    assert np.array_equal(mask, OBJECT)


def test_polygons():
    pytest.importorskip('pycocotools')
    mask = load(polygons=[[1, 1, 3, 1, 3, 3, 1, 3], [3, 2, 4, 2, 4, 4, 3, 4]])
    assert np.array_equal(mask, OBJECT)


def test_run_lengths():
    # Column by column, zeros first.
    rle = dict(size=[4, 6], counts=[5, 2, 2, 2, 3, 2, 8])
    assert np.array_equal(load(rle=rle), OBJECT)
    # As the COCO API has written them.
    for counts in ('5220105', b'5220105'):
        rle = dict(size=(4, 6), counts=counts)
        assert np.array_equal(load(rle=rle), OBJECT)


@pytest.mark.parametrize('density', [0.0, 0.02, 0.5, 1.0])
def test_compressed_run_lengths(density):
    encode = pytest.importorskip('pycocotools.mask').encode
    expected = np.random.default_rng(0).random((90, 70)) < density
    rle = encode(np.asfortranarray(expected, np.uint8))
    sample = dict(img=np.zeros((90, 70, 3), np.uint8), foreground={})
    sample['foreground'] = dict(rle=dict(rle, counts=rle['counts'].decode()))
    assert np.array_equal(LoadForeground()(sample)['gt_seg_map'], expected)


@pytest.mark.parametrize(
    'counts',
    [[5, 2, 2], [5, 2, 90], [5, -2, 21], [23.5, 0.5], [], None]
    + ['', '522010', '5220105P', '522010 ', 'a~b', [['x']]],
)
def test_wrong_run_lengths(counts):
    with pytest.raises(ValueError, match=r'a\.jpg: the counts of the rle'):
        load(rle=dict(size=[4, 6], counts=counts))


def test_without_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pycocotools', None)
    with pytest.raises(ImportError, match='pip install pycocotools'):
        load(polygons=[[1, 1, 3, 1, 3, 3]])


def test_mask_of_another_size(tmp_path):
    path = save(tmp_path / 'b.png', np.zeros((4, 7), np.uint8))
    with pytest.raises(
        ValueError, match=r'b\.png has 4 x 7 .* a\.jpg has 4 x 6$'
    ):
        load(mask_path=path)
    path = save(tmp_path / 'c.png', np.zeros((6, 4), np.uint8))
    with pytest.raises(
        ValueError, match=r'that of the mask turned: .* as stored'
    ):
        load(mask_path=path)
    with pytest.raises(ValueError, match=r'has 3 x 8 .* a\.jpg has 4 x 6$'):
        load(rle=dict(size=[3, 8], counts=[24]))


def test_files_that_are_no_masks(tmp_path):
    path = str(tmp_path / 'b.png')
    with pytest.raises(FileNotFoundError, match=r'b\.png of .* a\.jpg'):
        load(mask_path=path)
    (tmp_path / 'b.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'b\.png of .* a\.jpg cannot be'):
        load(mask_path=path)
    Image.new('CMYK', SHAPE[::-1]).save(tmp_path / 'b.tif')
    with pytest.raises(ValueError, match="but has 'CMYK'"):
        load(mask_path=str(tmp_path / 'b.tif'))


@pytest.mark.parametrize(
    'foreground, message',
    [
        ({}, 'exactly one of'),
        (dict(boxes=[[0, 0, 1, 1]], rle={}), r"has \['boxes', 'rle'\]"),
        (dict(mask_path='b.png', value=[1]), "'value' .*nearest: values"),
        (dict(boxes=[[0, 0, 1, 1]], above=1), "must not have 'above'"),
        (dict(mask_path='b.png', values=[1], above=3), 'not both'),
        (dict(boxes=[]), r'boxes must be a list .* but got \[\]'),
        (dict(boxes=[[2, 0, 2, 1]]), r'x1 < x2 .* got \[2, 0, 2, 1\]'),
        (dict(boxes=[[0, 0, 1]]), r'a box must be .* got \[0, 0, 1\]'),
        (dict(boxes=[[0, 0, 1, float('nan')]]), 'a box must be'),
        (dict(boxes=[[6, 0, 9, 3]]), r'outside of the image of 4 x 6'),
        (dict(polygons=[[0, 0, 4, 4]]), 'at least three points'),
        (dict(polygons=[[0, 0, 4, 4, 1]]), 'at least three points'),
        (dict(rle=[1, 2]), 'rle must be a dict of size'),
        (dict(rle=dict(counts=[24])), 'rle must be a dict of size'),
    ],
)
def test_malformed_foregrounds(foreground, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(**foreground)
    assert 'a.jpg' in str(caught.value)


def test_what_must_come_before():
    transform = TRANSFORMS.build(dict(type='LoadForeground'))
    with pytest.raises(ValueError, match='put LoadImageFromFile before it'):
        transform(dict(img_path='a.jpg', foreground={}))
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match='the data set has to provide'):
        transform(dict(img=image, img_path='a.jpg'))


def test_after_a_change_of_the_image(tmp_path):
    path = save(tmp_path / 'a.png', np.zeros((8, 6), np.uint8))
    sample = dict(img_path=path, foreground=dict(boxes=[[0, 0, 2, 2]]))
    sample = Resize((4, 4))(LoadImageFromFile()(sample))
    with pytest.raises(ValueError, match=r'changed from \(8, 6\) to \(4, 4\)'):
        LoadForeground()(sample)
    sample = dict(
        img=np.zeros((4, 4, 3), np.uint8),
        flip=True,
        foreground=dict(boxes=[[0, 0, 2, 2]]),
    )
    with pytest.raises(ValueError, match='was flipped before'):
        LoadForeground()(sample)
