"""Folders of images and masks, made here and real ones."""

import csv
import os
import tarfile
from collections import defaultdict

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.logging import MMLogger
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS
from PIL import Image
from shared_data import shared_file

from mmkd_plugin.datasets import CropObject, FolderWithMasks

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadForeground')]


def save(path, value=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', size, value).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes, one of which has its masks in other files."""
    save(tmp_path / 'images' / 'cat' / 'b.JPG')
    save(tmp_path / 'images' / 'cat' / 'a.jpg')
    save(tmp_path / 'images' / 'ant' / 'deep' / 'c.bmp')
    (tmp_path / 'images' / 'ant' / 'notes.txt').touch()
    save(tmp_path / 'masks' / 'cat' / 'b.PNG', 2)
    save(tmp_path / 'masks' / 'cat' / 'a_mask.gif', 5)
    save(tmp_path / 'masks' / 'ant' / 'deep' / 'c.tif', 7)
    return tmp_path


def masks_of(dataset) -> list:
    return [
        dataset.get_data_info(i)['foreground']['mask_path']
        for i in range(len(dataset))
    ]


def test_classes_and_masks(root):
    dataset = DATASETS.build(
        dict(type='FolderWithMasks', data_root=str(root), pipeline=LOAD)
    )
    assert isinstance(dataset, FolderWithMasks)
    assert masks_of(dataset) == [
        str(root / 'masks' / name)
        for name in ('ant/deep/c.tif', 'cat/a_mask.gif', 'cat/b.PNG')
    ]
    assert dataset.metainfo['classes'] == ('ant', 'cat')
    stock = CustomDataset(str(root), 'images')
    assert dataset.get_gt_labels().tolist() == [0, 1, 1]
    assert stock.get_gt_labels().tolist() == [0, 1, 1]
    for i in range(3):
        info = dataset.get_data_info(i)
        assert info['img_path'] == stock.get_data_info(i)['img_path']
        assert set(info['foreground']) == {'mask_path'}
        assert 'object_box' not in info
        assert dataset[i]['gt_seg_map'].tolist() == [[1] * 6] * 4
    assert str(root / 'masks') in repr(dataset)


def test_what_counts(root):
    def sums(**options):
        dataset = FolderWithMasks(str(root), pipeline=LOAD, **options)
        return [int(dataset[i]['gt_seg_map'].sum()) for i in range(3)]

    assert sums(above=4) == [24, 24, 0]
    assert sums(above=4.5) == [24, 24, 0]
    assert sums(values=[2, 7]) == [24, 0, 24]
    dataset = FolderWithMasks(str(root), values=(2, 7))
    assert dataset.get_data_info(0)['foreground']['values'] == [2, 7]


def test_masks_in_jpeg_files(root):
    for name in ('cat/b.PNG', 'cat/a_mask.gif'):
        (root / 'masks' / name).unlink()
        stem = name.split('.')[0]
        save(root / 'masks' / f'{stem}.JPG', 255)
    with pytest.raises(
        ValueError,
        match=r'2 of 3 masks .* JPEG .*: cat/a_mask\.JPG, cat/b\.JPG\. Say '
        'which values count: above=127',
    ):
        FolderWithMasks(str(root))

    def sums(**options):
        dataset = FolderWithMasks(str(root), pipeline=LOAD, **options)
        return [int(dataset[i]['gt_seg_map'].sum()) for i in range(3)]

    assert sums(above=127) == [0, 24, 24]
    # Whoever says so means it.
    assert sums(above=0) == [24, 24, 24]
    assert sums(values=[255]) == [0, 24, 24]


def test_names_of_classes(root):
    dataset = FolderWithMasks(str(root), classes=['Formica', 'Felis'])
    assert dataset.metainfo['classes'] == ('Formica', 'Felis')
    with pytest.raises(ValueError, match=r'3 names.* 2 subfolders: ant, cat'):
        FolderWithMasks(str(root), classes=['a', 'b', 'c'])


def test_without_classes(tmp_path):
    save(tmp_path / 'pictures' / 'a.png')
    save(tmp_path / 'pictures' / 'b.png')
    save(tmp_path / 'truth' / 'a_seg.png')
    save(tmp_path / 'truth' / 'b_seg.png')
    save(tmp_path / 'truth' / 'b.png')
    options = dict(img_dir='pictures', mask_dir='truth')
    dataset = FolderWithMasks(
        str(tmp_path), **options, mask_suffix='_seg.png', pipeline=LOAD
    )
    assert masks_of(dataset) == [
        str(tmp_path / 'truth' / name) for name in ('a_seg.png', 'b_seg.png')
    ]
    assert 'gt_label' not in dataset[0]
    assert dataset.CLASSES is None
    with pytest.raises(ValueError, match='classes has 1 names, but nothing'):
        FolderWithMasks(
            str(tmp_path), **options, mask_suffix='_seg.png', classes=['a']
        )
    with pytest.raises(ValueError, match=r'1 of 2 .* no mask .*: a\.png\. A'):
        FolderWithMasks(str(tmp_path), **options)


def test_images_without_a_mask(root):
    for number in range(7):
        save(root / 'images' / 'cat' / f'x{number}.png')
    with pytest.raises(
        ValueError,
        match=r'7 of 10 .*: cat/x0\.png, cat/x1\.png, .*x4\.png, \.\.\. '
        r'\(7 in all\)\.',
    ):
        FolderWithMasks(str(root))


def test_masks_without_an_image(root, monkeypatch):
    lines = []
    monkeypatch.setattr(
        MMLogger.get_current_instance(),
        'log',
        lambda level, message: lines.append(message),
    )
    assert len(FolderWithMasks(str(root))) == 3
    assert lines == []
    save(root / 'masks' / 'cat' / 'z.png')
    save(root / 'masks' / 'cat' / 'a.txt.png')
    assert len(FolderWithMasks(str(root))) == 3
    assert lines == [
        '2 files have a mask, but no image: cat/a.txt.png, cat/z.png'
    ]


def test_two_masks_of_one_image(root):
    save(root / 'masks' / 'cat' / 'b.bmp')
    with pytest.raises(ValueError, match=r'cat/b\.JPG has .*b\.PNG, cat/b\.b'):
        FolderWithMasks(str(root))
    (root / 'masks' / 'cat' / 'b.bmp').unlink()
    # The name of the image itself goes before that with _mask.
    save(root / 'masks' / 'cat' / 'b_mask.png')
    assert masks_of(FolderWithMasks(str(root)))[2].endswith('b.PNG')


def test_images_beside_class_folders(root):
    save(root / 'images' / 'd.png')
    save(root / 'masks' / 'd.png')
    with pytest.raises(ValueError, match=r'1 of 4 images .*ant, cat.*: d\.p'):
        FolderWithMasks(str(root))


def test_missing_folders(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r'images .*images and no folder of masks'
    ):
        FolderWithMasks(str(tmp_path))
    (tmp_path / 'images').mkdir()
    with pytest.raises(FileNotFoundError, match='no table of boxes'):
        FolderWithMasks(str(tmp_path), boxes_file='boxes.csv')
    (tmp_path / 'masks').mkdir()
    with pytest.raises(ValueError, match=r'no image in .*\.bmp, \.pgm'):
        FolderWithMasks(str(tmp_path))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(mask_dir='images'), 'must lie beside each other'),
        (dict(mask_dir='images/cat'), 'must lie beside each other'),
        (dict(img_dir='.'), 'must lie beside each other'),
        (dict(values=[]), r'values must be a list of integers, .* \[\]'),
        (dict(values=[1.5]), r'values must be .* \[1\.5\]'),
        (dict(values=3), 'values must be a list of integers, but got 3'),
        (dict(values=[3], above=2), 'exclude each other'),
        (dict(values=[3], above=0), 'exclude each other'),
        (dict(above=-1), 'above must be .* -1'),
        (dict(mask_suffix='_mask'), "mask_suffix must .* '_mask'"),
    ],
)
def test_options(root, options, message):
    with pytest.raises(ValueError, match=message):
        FolderWithMasks(str(root), **options)


def test_boxes(root):
    (root / 'boxes.csv').write_text(
        'file,xmin,ymin,xmax,ymax\n'
        'cat/b.JPG,4,1,5,2\n'
        'cat/b.JPG,0.6,2,2,4\n'
        'cat/a.jpg,0,0,6,4\n'
        'ant/deep/c.bmp,1,1,2,2\n'
    )
    dataset = FolderWithMasks(
        str(root), mask_dir='none', boxes_file='boxes.csv', pipeline=LOAD
    )
    assert dataset.get_gt_labels().tolist() == [0, 1, 1]
    assert dataset.metainfo['classes'] == ('ant', 'cat')
    info = dataset[2]
    assert info['foreground'] == dict(boxes=[[4, 1, 5, 2], [0.6, 2, 2, 4]])
    assert info['object_box'] == [0.6, 1, 5, 4]
    assert np.argwhere(info['gt_seg_map']).tolist() == [[1, 4], [2, 1], [3, 1]]
    assert str(root / 'boxes.csv') in repr(dataset)


def test_classes_of_the_table(root):
    path = root / 'boxes.csv'
    head = 'file,xmin,ymin,xmax,ymax,class,class_name\n'
    path.write_text(
        f'{head}cat/b.JPG,4,1,5,2,2,tom\ncat/a.jpg,0,0,6,4,0,kitten\n'
    )
    with pytest.raises(ValueError, match=r'1 of 3 .* no box .*deep/c\.bmp'):
        FolderWithMasks(str(root), boxes_file='boxes.csv')
    with path.open('a') as file:
        file.write('ant/deep/c.bmp,0,0,1,1,1,worker\n')
        file.write('gone.jpg,0,0,1,1,1,worker\n')
    dataset = FolderWithMasks(str(root), boxes_file='boxes.csv')
    assert dataset.get_gt_labels().tolist() == [1, 0, 2]
    assert dataset.metainfo['classes'] == ('kitten', 'worker', 'tom')


@pytest.fixture(scope='module')
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp('foreground')
    with tarfile.open(shared_file('data/foreground.tar.xz')) as archive:
        archive.extractall(folder, filter='data')
    return folder / 'foreground'


def test_real_masks_agree_with_their_boxes(real):
    """The box of an instance is the bounding box of its value."""
    masked = FolderWithMasks(str(real / 'penn_fudan'))
    assert len(masked) == 170
    boxes = defaultdict(dict)
    with open(real / 'penn_fudan' / 'boxes.csv') as file:
        for row in csv.DictReader(file):
            box = [int(row[key]) for key in ('xmin', 'ymin', 'xmax', 'ymax')]
            boxes[row['file']][int(row['instance'])] = box
    assert sum(map(len, boxes.values())) == 423
    load = Compose(LOAD)
    for index in range(len(masked)):
        info = masked.get_data_info(index)
        assert 'gt_label' not in info
        instances = boxes[os.path.basename(info['img_path'])]
        sample = load(info)
        mask = np.asarray(Image.open(info['foreground']['mask_path']))
        assert mask.shape == sample['img'].shape[:2]
        assert np.array_equal(sample['gt_seg_map'], mask > 0)
        assert np.unique(mask).tolist() == [0, *sorted(instances)]
    # Reading each instance of each image takes longer: some are enough.
    for index in range(0, len(masked), 9):
        info = masked.get_data_info(index)
        path = info['foreground']['mask_path']
        for value, box in boxes[os.path.basename(info['img_path'])].items():
            foreground = dict(mask_path=path, values=[value])
            sample = load(dict(info, foreground=foreground))
            whole = sample['img'].copy()
            x1, y1, x2, y2 = box
            crop = CropObject(1)(sample)
            assert np.array_equal(crop['img'], whole[y1:y2, x1:x2])


@pytest.mark.parametrize(
    'name, num_classes, first',
    [
        ('penn_fudan', 0, [73, 78, 245, 222]),
        ('cub200_subset', 10, None),
        ('tiny_imagenet_val_boxes', 200, None),
    ],
)
def test_real_boxes(real, name, num_classes, first):
    dataset = FolderWithMasks(
        str(real / name),
        boxes_file='boxes.csv',
        pipeline=[*LOAD, dict(type='CropObject')],
    )
    assert len(dataset) == (170 if name == 'penn_fudan' else 200)
    if num_classes:
        assert len(dataset.metainfo['classes']) == num_classes
        counts = np.bincount(dataset.get_gt_labels())
        assert counts.tolist() == [200 // num_classes] * num_classes
    if first:
        assert dataset.get_data_info(0)['object_box'] == first
    for index in range(0, len(dataset), 20):
        sample = dataset[index]
        assert sample['gt_seg_map'].shape == sample['img'].shape[:2]
        assert 0.2 < sample['gt_seg_map'].mean() <= 1
