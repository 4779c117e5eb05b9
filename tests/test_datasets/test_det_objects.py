"""Single objects of ILSVRC-DET."""

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

from mmkd_plugin.datasets import DETObjects

CAT, DOG, FOX = 'n02121808', 'n02084071', 'n02118333'


def write_xml(path, *objects, folder='', filename=''):
    path.parent.mkdir(parents=True, exist_ok=True)
    bodies = [
        f'<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin>'
        f'<xmax>{box[2]}</xmax><ymin>{box[1]}</ymin><ymax>{box[3]}</ymax>'
        '</bndbox></object>'
        for name, box in objects
    ]
    path.write_text(
        f'<annotation><folder>{folder}</folder><filename>{filename}</filename>'
        f'{"".join(bodies)}</annotation>'
    )


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(path, 'JPEG')


@pytest.fixture
def root(tmp_path):
    """Images in a folder of the set, in a nested one, and at the top."""
    ann, img = tmp_path / 'Annotations', tmp_path / 'Data'
    write_xml(
        ann / 'extra' / 'n02084071' / 'n02084071_7.xml',
        (DOG, (0, 0, 9, 7)),
        (FOX, (2, 3, 2, 3)),
        # As in the file, but not the name of the image.
        filename='%s',
        folder='%s',
    )
    write_image(img / 'extra' / 'n02084071' / 'n02084071_7.JPEG')
    write_xml(
        ann / 'val' / 'val_2.xml',
        (CAT, (1, 2, 5, 6)),
        (CAT, (4, 4, 3, 6)),
        (DOG, (0, 1, 3, 4)),
        folder='val',
        filename='val_2',
    )
    write_image(img / 'val' / 'val_2.JPEG')
    return tmp_path


def infos(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def test_all_classes(root):
    dataset = DETObjects('Annotations', 'Data', data_root=str(root))
    # Sorted ids: dog, fox, cat.
    assert dataset.metainfo['classes'] == (DOG, FOX, CAT)
    entries = infos(dataset)
    assert [e['name'] for e in entries] == [
        'extra/n02084071/n02084071_7#1',
        'extra/n02084071/n02084071_7#2',
        'val/val_2#1',
        'val/val_2#3',
    ]
    assert [e['gt_label'] for e in entries] == [0, 1, 2, 0]
    # From 0 and inclusive to half open; a box of one pixel is one.
    boxes = [[0, 0, 10, 8], [2, 3, 3, 4], [1, 2, 6, 7], [0, 1, 4, 5]]
    assert [e['object_box'] for e in entries] == boxes
    assert [e['foreground'] for e in entries] == [
        dict(boxes=[box]) for box in boxes
    ]
    assert entries[0]['img_path'] == str(
        root / 'Data' / 'extra' / 'n02084071' / 'n02084071_7.JPEG'
    )
    assert dataset.left_out == {'with an empty box': 1}


@pytest.mark.parametrize('as_file', [False, True])
def test_ids_in_another_order(root, as_file):
    classes = [CAT, DOG]
    if as_file:
        path = root / 'ids.txt'
        path.write_text('\n'.join(classes))
        classes = str(path)
    dataset = DETObjects(
        str(root / 'Annotations'), str(root / 'Data'), classes=classes
    )
    assert [e['gt_label'] for e in infos(dataset)] == [1, 0, 1]
    assert dataset.left_out == {'of other classes': 1, 'with an empty box': 1}


def test_named_ids(root):
    dataset = DETObjects(
        'Annotations',
        'Data',
        str(root),
        classes={DOG: 'dog', CAT: 'cat', 'n00000001': 'absent'},
    )
    assert dataset.metainfo['classes'] == ('dog', 'cat', 'absent')
    assert [e['gt_label'] for e in infos(dataset)] == [0, 1, 0]


@pytest.mark.parametrize(
    ('folder', 'filename', 'place'),
    [
        ('sub', 'other', 'sub/other.JPEG'),
        ('sub', 'other', 'other.JPEG'),
        ('', 'other.JPEG', 'set/other.JPEG'),
        ('', 'other.jpg', 'set/other.jpg'),
        ('', 'sub/other', 'sub/other.JPEG'),
    ],
)
def test_image_is_found_by_what_the_xml_says(
    tmp_path, folder, filename, place
):
    write_xml(
        tmp_path / 'ann' / 'set' / 'x.xml',
        (DOG, (0, 0, 1, 1)),
        folder=folder,
        filename=filename,
    )
    write_image(tmp_path / 'img' / place)
    dataset = DETObjects('ann', 'img', data_root=str(tmp_path))
    assert dataset.get_data_info(0)['img_path'] == str(
        tmp_path / 'img' / place
    )


def test_missing_images(root):
    (root / 'Data' / 'val' / 'val_2.JPEG').unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'1 of 2 images and masks are missing: '
        r'.*Data.val.val_2\.JPEG \(of val.val_2#1\)',
    ):
        DETObjects('Annotations', 'Data', data_root=str(root))
    # Images that no kept object needs may be missing.
    fox = DETObjects('Annotations', 'Data', str(root), classes=[FOX])
    assert len(fox) == 1


def test_pixels(root):
    dataset = DATASETS.build(
        dict(
            type='DETObjects',
            data_root=str(root),
            ann_dir='Annotations',
            img_dir='Data',
            classes=[CAT],
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadForeground'),
                dict(type='CropObject', scale=1.5),
                dict(type='PackInputs', algorithm_keys=('gt_seg_map',)),
            ],
        )
    )
    # 5 x 5 at (1, 2) becomes 7.5 x 7.5 at (-0.25, 0.75), within 10 x 8.
    sample = dataset[0]['data_samples']
    expected = np.zeros((7, 7), int)
    expected[1:6, 1:6] = 1
    assert np.array(sample.gt_seg_map).tolist() == expected.tolist()


def test_bad_options(root):
    with pytest.raises(ValueError, match=r"WordNet ids.*got 'dog'"):
        DETObjects('Annotations', 'Data', str(root), classes=['dog'])
    with pytest.raises(ValueError, match='different names'):
        DETObjects(
            'Annotations', 'Data', str(root), classes={DOG: 'a', CAT: 'a'}
        )
    with pytest.raises(ValueError, match='different names'):
        DETObjects('Annotations', 'Data', str(root), classes={})
    with pytest.raises(FileNotFoundError, match=r'folder .*none \(ann_dir\)'):
        DETObjects('none', 'Data', str(root))
    with pytest.raises(ValueError, match=r'are 5 of other classes$'):
        DETObjects('Annotations', 'Data', str(root), classes=['n00000001'])
    (root / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'empty: none is annotated there'):
        DETObjects('empty', 'Data', str(root))
    (root / 'empty' / 'x.xml').write_text('<annotation>')
    with pytest.raises(ValueError, match=r'x\.xml is no complete XML'):
        DETObjects('empty', 'Data', str(root))
