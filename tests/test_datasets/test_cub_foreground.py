"""CUB-200-2011 with foregrounds, from a small folder in its layout."""

import numpy as np
import pytest
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.registry import DATASETS
from PIL import Image

from mmkd_plugin.datasets import CUBForeground

NAMES = ['001.A/a_1.jpg', '001.A/a_2.jpg', '002.B/b_1.jpg', '002.B/b_2.jpg']
BOXES = ['2.0 1.0 5.0 6.0', '0.0 0.0 10.0 8.0', '1.5 2.0 4.0 4.5', '3 3 1 1']


@pytest.fixture
def root(tmp_path):
    """Four images of two classes, one of each to train on."""
    rows = dict(
        images=NAMES,
        image_class_labels=[1, 1, 2, 2],
        train_test_split=[1, 0, 0, 1],
        bounding_boxes=BOXES,
    )
    for name, values in rows.items():
        lines = [f'{i} {value}\n' for i, value in enumerate(values, 1)]
        (tmp_path / f'{name}.txt').write_text(''.join(lines))
    for number, name in enumerate(NAMES):
        image = tmp_path / 'images' / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (10, 8), (number, 0, 0)).save(image)
        mask = (tmp_path / 'segmentations' / name).with_suffix('.png')
        mask.parent.mkdir(parents=True, exist_ok=True)
        # Two, three and five annotators of five.
        levels = np.zeros((8, 10), np.uint8)
        levels[2:6, 3:7] = 102
        levels[3:6, 4:7] = 153
        levels[4, 5] = 255
        Image.fromarray(levels).save(mask)
    return tmp_path


def test_segmentations(root):
    dataset = DATASETS.build(
        dict(
            type='CUBForeground',
            data_root=str(root),
            split='train',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadForeground'),
                dict(type='CropObject', scale=1.2),
                PackInputs(algorithm_keys=('gt_seg_map',)),
            ],
        )
    )
    assert isinstance(dataset, CUBForeground)
    assert len(dataset) == 2
    assert dataset.get_gt_labels().tolist() == [0, 1]
    info = dataset.get_data_info(0)
    assert info['img_path'] == str(root / 'images' / '001.A/a_1.jpg')
    assert info['foreground'] == dict(
        mask_path=str(root / 'segmentations' / '001.A/a_1.png'), above=127
    )
    assert info['object_box'] == [2, 1, 7, 7]
    packed = dataset[0]
    # 1.2 times the box are the columns 1.5 to 7.5 and the rows 0.4 to 7.6.
    assert packed['inputs'].shape == (3, 8, 6)
    expected = np.zeros((8, 6))
    expected[3:6, 3:6] = 1
    assert np.array_equal(packed['data_samples'].gt_seg_map, expected)
    assert 'segmentation' in repr(dataset)


def test_level_of_agreement(root):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadForeground')]
    counts = [
        CUBForeground(str(root), above=above, pipeline=pipeline)[0][
            'gt_seg_map'
        ].sum()
        for above in (0, 101, 127, 200)
    ]
    assert counts == [16, 16, 9, 1]


def test_boxes(root):
    dataset = CUBForeground(str(root), 'test', foreground='box')
    assert len(dataset) == 2
    infos = [dataset.get_data_info(i) for i in range(2)]
    assert infos[0]['foreground'] == dict(boxes=[[0, 0, 10, 8]])
    assert infos[1]['foreground'] == dict(boxes=[[1.5, 2, 5.5, 6.5]])
    assert infos[1]['object_box'] == [1.5, 2, 5.5, 6.5]
    assert infos[1]['gt_label'] == 1


def test_without_the_boxes_file(root):
    (root / 'bounding_boxes.txt').unlink()
    info = CUBForeground(str(root)).get_data_info(0)
    assert 'object_box' not in info
    with pytest.raises(FileNotFoundError, match=r'bounding_boxes\.txt'):
        CUBForeground(str(root), foreground='box')


def test_without_segmentations(root):
    (root / 'segmentations' / '002.B' / 'b_2.png').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'1 of 2 images have no .*002\.B/b_2\.png'
    ):
        CUBForeground(str(root))
    (root / 'segmentations').rename(root / 'elsewhere')
    with pytest.raises(
        FileNotFoundError, match=r"unpack segmentations\.tgz.*foreground='box'"
    ):
        CUBForeground(str(root))
    assert len(CUBForeground(str(root), foreground='box')) == 2


@pytest.mark.parametrize(
    'line', ['5 1 1 2 2', '1 1 1 2', '1 a 1 2 2', '1', '1.0 1 1 2 2']
)
def test_malformed_boxes(root, line):
    path = root / 'bounding_boxes.txt'
    path.write_text(f'2 1 1 2 2\n\n{line}\n')
    with pytest.raises(ValueError, match=rf'line 3: .* but got .{line}'):
        CUBForeground(str(root))


def test_missing_box(root):
    (root / 'bounding_boxes.txt').write_text('1 1 1 2 2\n')
    with pytest.raises(ValueError, match=r'no box of 002\.B/b_2\.jpg'):
        CUBForeground(str(root))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(split='val'), "split must be one of .* 'val'"),
        (dict(foreground='mask'), "foreground must be one of .* 'mask'"),
        (dict(above=255), 'above must be .* 255'),
        (dict(above=-1), 'above must be .* -1'),
    ],
)
def test_options(root, options, message):
    with pytest.raises(ValueError, match=message):
        CUBForeground(str(root), **options)
