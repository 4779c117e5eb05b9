"""Single objects of a JSON in the style of COCO."""

import copy
import json

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

from mmkd_plugin.datasets import COCOObjects

# The left half of the square below, column by column; also compressed.
HALF = dict(size=[8, 10], counts=[18, 4, 4, 4, 50])
PACKED = dict(size=[8, 10], counts='b0440^1')
SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


def annotation(key, image, category, bbox, segmentation=None, **more):
    row = dict(id=key, image_id=image, category_id=category, bbox=bbox, **more)
    if segmentation is not None:
        row['segmentation'] = segmentation
    return row


CONTENT = dict(
    images=[
        dict(id=9, file_name='b.png', height=8, width=10),
        dict(id=4, file_name='sub/a.png', height=8, width=10),
    ],
    categories=[
        dict(id=18, name='dog'),
        dict(id=3, name='car'),
        dict(id=90, name='toothbrush'),
    ],
    annotations=[
        annotation(11, 9, 18, [2, 2, 4, 4], [SQUARE], area=16.0, iscrowd=0),
        annotation(5, 4, 3, [1.5, 2, 2.5, 4], HALF, area=8, iscrowd=1),
        annotation(7, 4, 90, [2, 2, 2, 4], HALF, area=8),
        annotation(2, 9, 3, [0, 0, 10, 1], [[0, 0, 10, 0, 10, 1, 0, 1]]),
        annotation(3, 9, 3, [0, 0, 0, 1], [SQUARE]),
        annotation(8, 9, 18, [0, 0, 2, 2], PACKED, area=4),
    ],
)


def write(root, content):
    (root / 'ann.json').write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    write(tmp_path, CONTENT)
    for row in CONTENT['images']:
        path = tmp_path / 'img' / row['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(path)
    return tmp_path


def make(root, **options):
    return COCOObjects('ann.json', 'img', data_root=str(root), **options)


def infos(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def test_entries(root):
    dataset = make(root)
    # By id of the category, not by the order of the file.
    assert dataset.metainfo['classes'] == ('car', 'dog', 'toothbrush')
    entries = infos(dataset)
    assert [e['name'] for e in entries] == ['b#11', 'sub/a#7', 'b#2', 'b#8']
    assert [e['object_id'] for e in entries] == [11, 7, 2, 8]
    assert [e['gt_label'] for e in entries] == [1, 2, 0, 1]
    assert [e['object_box'] for e in entries] == [
        [2, 2, 6, 6],
        [2, 2, 4, 6],
        [0, 0, 10, 1],
        [0, 0, 2, 2],
    ]
    assert [e['foreground'] for e in entries] == [
        dict(polygons=[SQUARE]),
        dict(rle=HALF),
        dict(polygons=[[0, 0, 10, 0, 10, 1, 0, 1]]),
        dict(rle=PACKED),
    ]
    assert entries[1]['img_path'] == str(root / 'img' / 'sub' / 'a.png')
    assert dataset.left_out == {'crowds': 1, 'with an empty box': 1}


def test_boxes_as_foreground(root):
    content = copy.deepcopy(CONTENT)
    for row in content['annotations']:
        del row['segmentation']
    write(root, content)
    entries = infos(make(root, foreground='box', with_crowd=True))
    assert [e['object_id'] for e in entries] == [11, 5, 7, 2, 8]
    assert entries[1]['foreground'] == dict(boxes=[[1.5, 2, 4.0, 6]])
    with pytest.raises(
        ValueError,
        match=r'4 objects have no segmentation: b#11, sub/a#7, b#2, b#8\. '
        r".*foreground='box'",
    ):
        make(root)


def test_filters(root):
    # Areas of 16, 8, 8, none (box of 10), 4 square pixels.
    dataset = make(root, min_area=10)
    assert [e['object_id'] for e in infos(dataset)] == [11, 2]
    assert dataset.left_out == {
        'crowds': 1,
        'smaller than min_area=10': 2,
        'with an empty box': 1,
    }
    everything = make(root, with_crowd=True)
    assert [e['object_id'] for e in infos(everything)] == [11, 5, 7, 2, 8]


def test_some_classes_in_another_order(root):
    dataset = make(root, classes=['toothbrush', 'car'])
    assert dataset.metainfo['classes'] == ('toothbrush', 'car')
    assert [e['gt_label'] for e in infos(dataset)] == [0, 1]
    assert dataset.left_out['of other classes'] == 2


def test_pixels(root):
    pytest.importorskip('pycocotools')
    dataset = DATASETS.build(
        dict(
            type='COCOObjects',
            ann_file='ann.json',
            img_dir='img',
            data_root=str(root),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadForeground'),
                dict(type='PackInputs', algorithm_keys=('gt_seg_map',)),
            ],
        )
    )
    square, half = np.zeros((2, 8, 10), int)
    square[2:6, 2:6] = 1
    half[2:6, 2:4] = 1
    for index, expected in ((0, square), (1, half), (3, half)):
        sample = dataset[index]['data_samples']
        assert np.array(sample.gt_seg_map).tolist() == expected.tolist()


def test_pixels_of_boxes(root):
    dataset = make(
        root,
        foreground='box',
        classes=['toothbrush'],
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadForeground'),
            dict(type='CropObject', scale=2.0),
            dict(type='PackInputs', algorithm_keys=('gt_seg_map',)),
        ],
    )
    # 2 x 4 at (2, 2) becomes 4 x 8 at (1, 0).
    expected = np.zeros((8, 4), int)
    expected[2:6, 1:3] = 1
    sample = dataset[0]['data_samples']
    assert np.array(sample.gt_seg_map).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(min_area=-1), 'min_area must be .*>= 0, but got -1'),
        (dict(with_crowd='no'), "with_crowd must be True or .*'no'"),
        (dict(foreground='mask'), "foreground must be one of .*'mask'"),
        (dict(classes=['dgo']), r"'dgo'.*ann\.json \(nearest: dog\)"),
        (dict(classes=['dog', 'dog']), 'classes must be different names'),
        (
            dict(min_area=99),
            r'ann\.json: left out are 4 smaller than min_area=99, 1 crowds, '
            '1 with an empty box',
        ),
    ],
)
def test_bad_options(root, options, message):
    with pytest.raises(ValueError, match=message):
        make(root, **options)


@pytest.mark.parametrize(
    ('table', 'index', 'changes', 'message'),
    [
        ('images', 1, dict(id=9), r'images\[1\] has the id 9 of another one'),
        ('images', 0, dict(id=None), r"images\[0\] .* 'id', but has None"),
        ('images', 0, dict(file_name=None), "text as its 'file_name'"),
        ('categories', 2, dict(id=3), r'categories\[2\] has the id 3 of ano'),
        ('categories', 0, dict(name=5), "text as its 'name', but has 5"),
        ('annotations', 1, dict(id=11), r'annotations\[1\] has the id 11 of'),
        (
            'annotations',
            0,
            dict(category_id=1),
            'annotation 11 has the unknown category_id 1',
        ),
        (
            'annotations',
            0,
            dict(image_id=[9]),
            r'annotation 11 has the unknown image_id \[9\]',
        ),
        (
            'annotations',
            0,
            dict(bbox=[1, 2, 3]),
            r'11 must have the bbox \[x, y, width, height\], .*\[1, 2, 3\]',
        ),
        ('annotations', 0, dict(bbox=None), 'but has None'),
        ('annotations', 0, dict(area='big'), "as its area, but has 'big'"),
        (
            'annotations',
            0,
            dict(segmentation=[[1, 2, 3, 4]]),
            r'11 must have polygons .* 3 points .*\[1, 2, 3, 4\]',
        ),
        ('annotations', 0, dict(segmentation=SQUARE), 'polygons .* has 2'),
        (
            'annotations',
            2,
            dict(segmentation=dict(size=[10, 8], counts=[80])),
            r'7 has run lengths of the size \[10, 8\], but its image '
            r'sub/a\.png is of the size \[8, 10\]',
        ),
        (
            'annotations',
            2,
            dict(segmentation=dict(size=[8, 10])),
            '7 must have run lengths with counts.* has None',
        ),
        (
            'annotations',
            2,
            dict(segmentation=dict(counts=[80])),
            r'7 must have run lengths of the size \[height, width\]',
        ),
    ],
)
def test_malformed_rows(root, table, index, changes, message):
    content = copy.deepcopy(CONTENT)
    content[table][index].update(changes)
    write(root, content)
    with pytest.raises(ValueError, match=r'ann\.json.*' + message):
        make(root)


def test_malformed_files(root):
    (root / 'ann.json').write_text('{"images": [')
    with pytest.raises(ValueError, match=r'ann\.json is no complete JSON'):
        make(root)
    (root / 'ann.json').write_text('[]')
    with pytest.raises(ValueError, match=r'must hold a dict .* holds a list'):
        make(root)
    write(root, dict(CONTENT, annotations=None))
    with pytest.raises(ValueError, match="has no list 'annotations'"):
        make(root)
    write(root, dict(CONTENT, annotations=[]))
    with pytest.raises(ValueError, match='none is annotated there'):
        make(root)
    (root / 'ann.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'no annotation file .*ann'):
        make(root)


def test_name_of_two_categories(root):
    content = copy.deepcopy(CONTENT)
    content['categories'][2]['name'] = 'dog'
    write(root, content)
    assert [e['gt_label'] for e in infos(make(root))] == [1, 2, 0, 1]
    with pytest.raises(ValueError, match=r"2 categories .* called 'dog'"):
        make(root, classes=['dog'])


def test_missing_images(root):
    (root / 'img' / 'b.png').unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'1 of 2 images and masks are missing: .*b\.png \(of b#11\)',
    ):
        make(root)
