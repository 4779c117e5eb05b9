"""Single objects of PASCAL VOC."""

import numpy as np
import pytest
from mmengine.registry import DATASETS
from mmpretrain.datasets.categories import VOC2007_CATEGORIES
from PIL import Image

from mmkd_plugin.datasets import VOCObjects
from mmkd_plugin.datasets.voc_xml import read_voc_xml

BOX = """<bndbox>
  <xmax>{2}</xmax><xmin>{0}</xmin><ymax>{3}</ymax><ymin>{1}</ymin>
</bndbox>"""


def xml_object(name, box, difficult=None, extra=''):
    flag = '' if difficult is None else f'<difficult>{difficult}</difficult>'
    # A part has a name and a box of its own, which are not the object's.
    part = f'<part><name>head</name>{BOX.format(1, 1, 2, 2)}</part>'
    return (
        f'<object><name>{name}</name>{flag}{BOX.format(*box)}{part}{extra}'
        '</object>'
    )


def write_xml(path, *objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<annotation><folder>VOC2012</folder>'
        f'<filename>{path.stem}.jpg</filename>{"".join(objects)}'
        '</annotation>'
    )


def write_list(root, task, split, *lines):
    path = root / 'ImageSets' / task / f'{split}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')


@pytest.fixture
def root(tmp_path):
    """Two images: four objects, one of them difficult; and a single one."""
    write_xml(
        tmp_path / 'Annotations' / '2007_000032.xml',
        xml_object('aeroplane', (1, 3, 4, 6), 0),
        xml_object('person', (5, 1, 6, 2), 1),
        xml_object('person', (2, 2, 8, 7), 0),
        xml_object('bird', (7, 1, 8.5, 6), 0),
    )
    write_xml(
        tmp_path / 'Annotations' / '2007_000039.xml',
        xml_object('tvmonitor', (1, 1, 10, 8)),
    )
    for name in ('JPEGImages', 'SegmentationObject'):
        (tmp_path / name).mkdir()
    for image_id in ('2007_000032', '2007_000039'):
        pixels = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
        Image.fromarray(pixels).save(
            tmp_path / 'JPEGImages' / f'{image_id}.jpg'
        )
        mask = np.zeros((8, 10), np.uint8)
        mask[2:6, 0:4] = 1
        mask[1:7, 4:8] = 3
        mask[0] = 255
        image = Image.fromarray(mask)
        # VOC's colours: none of them is the index itself.
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        image.save(tmp_path / 'SegmentationObject' / f'{image_id}.png')
    for task in ('Segmentation', 'Main'):
        write_list(tmp_path, task, 'train', '2007_000032', '2007_000039 ')
    write_list(tmp_path, 'Main', 'val', '2007_000039')
    return tmp_path


def infos(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def test_entries_with_masks(root):
    dataset = VOCObjects(str(root))
    assert dataset.metainfo['classes'] == VOC2007_CATEGORIES
    entries = infos(dataset)
    assert [e['name'] for e in entries] == [
        '2007_000032#1',
        '2007_000032#3',
        '2007_000032#4',
        '2007_000039#1',
    ]
    assert [e['object_id'] for e in entries] == [1, 3, 4, 1]
    assert [e['gt_label'] for e in entries] == [0, 14, 2, 19]
    # From 1 and inclusive to from 0 and half open.
    assert [e['object_box'] for e in entries] == [
        [0, 2, 4, 6],
        [1, 1, 8, 7],
        [6, 0, 8.5, 6],
        [0, 0, 10, 8],
    ]
    # The difficult object is left out, but the values do not move up.
    mask = str(root / 'SegmentationObject' / '2007_000032.png')
    assert [e['foreground'] for e in entries[:3]] == [
        dict(mask_path=mask, values=[k]) for k in (1, 3, 4)
    ]
    assert entries[0]['img_path'] == str(
        root / 'JPEGImages' / '2007_000032.jpg'
    )
    assert dataset.left_out == {'difficult': 1}
    assert '1 difficult' in repr(dataset)


def test_lazy(root):
    dataset = VOCObjects(str(root), lazy_init=True)
    assert 'Left out: \tnone' in repr(dataset)
    dataset.full_init()
    assert dataset.left_out == {'difficult': 1}


def test_entries_with_boxes(root):
    (root / 'SegmentationObject' / '2007_000039.png').unlink()
    dataset = VOCObjects(str(root), split='val', foreground='box')
    (entry,) = infos(dataset)
    assert entry['foreground'] == dict(boxes=[[0, 0, 10, 8]])
    assert entry['object_box'] == [0, 0, 10, 8]


def test_filters(root):
    dataset = VOCObjects(str(root), min_size=4, skip_difficult=False)
    # Sides of 4 x 4, 2 x 2, 7 x 6, 2.5 x 6, 10 x 8 pixels.
    assert [e['object_id'] for e in infos(dataset)] == [1, 3, 1]
    assert dataset.left_out == {'smaller than min_size=4': 2}
    everything = VOCObjects(str(root), skip_difficult=False)
    assert len(everything) == 5
    assert everything.left_out == {}


def test_some_classes_in_another_order(root):
    dataset = VOCObjects(str(root), classes=['person', 'aeroplane'])
    assert [e['gt_label'] for e in infos(dataset)] == [1, 0]
    assert dataset.metainfo['classes'] == ('person', 'aeroplane')
    assert dataset.left_out == {'difficult': 1, 'of other classes': 2}


def test_pixels(root):
    dataset = DATASETS.build(
        dict(
            type='VOCObjects',
            data_root=str(root),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadForeground'),
                dict(type='CropObject', scale=1.0),
                dict(
                    type='PackInputs',
                    algorithm_keys=('gt_seg_map',),
                    meta_keys=('img_path', 'name', 'object_id'),
                ),
            ],
        )
    )
    # Object 1 alone fills its box; object 3 has its right part.
    first, third = dataset[0], dataset[1]
    assert first['inputs'].shape == (3, 4, 4)
    sample = third['data_samples']
    assert sample.name == '2007_000032#3'
    assert sample.gt_label.tolist() == [14]
    assert np.array(first['data_samples'].gt_seg_map).tolist() == [[1] * 4] * 4
    assert np.array(sample.gt_seg_map).tolist() == [[0, 0, 0, 1, 1, 1, 1]] * 6


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(split='test'), r"split .*'train', 'val', 'trainval'.*'test'"),
        (dict(foreground='mask'), "foreground must be one of .*'mask'"),
        (dict(min_size=-1), 'min_size must be .*>= 0, but got -1'),
        (dict(skip_difficult=1), 'skip_difficult must be True or False'),
        (dict(classes=['preson']), "'preson'.*nearest: person"),
        (dict(classes=['cat', 'cat']), 'classes must be different names'),
        (dict(classes=[]), 'at least one'),
        (
            dict(min_size=9),
            r'no object in .*Segmentation.train\.txt: left out are 4 smaller '
            r'than min_size=9, 1 difficult',
        ),
    ],
)
def test_bad_options(root, options, message):
    with pytest.raises(ValueError, match=message):
        VOCObjects(str(root), **options)


def test_missing_files(root):
    with pytest.raises(FileNotFoundError, match='VOCdevkit/VOC2012, but got'):
        VOCObjects(str(root), split='trainval')
    (root / 'JPEGImages' / '2007_000039.jpg').unlink()
    (root / 'SegmentationObject' / '2007_000032.png').unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'2 of 4 images and masks are missing: .*000032.png \(of '
        r'2007_000032#1\), .*JPEGImages.2007_000039.jpg \(of 2007_000039#1',
    ):
        VOCObjects(str(root))
    (root / 'Annotations' / '2007_000039.xml').unlink()
    with pytest.raises(FileNotFoundError, match=r'file .*2007_000039\.xml'):
        VOCObjects(str(root))


def test_image_listed_twice(root):
    write_list(root, 'Main', 'train', 'a', 'b', 'a')
    with pytest.raises(ValueError, match=r'lists 1 images more .* as a$'):
        VOCObjects(str(root), foreground='box')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('<annotation><object>', r'x\.xml is no complete XML'),
        ('<html></html>', 'must hold an <annotation>, but holds a <html>'),
        (
            '<annotation><object><bndbox/></object></annotation>',
            r'x\.xml: object 1 has no <name>',
        ),
        (
            '<annotation><object><name>cat</name></object></annotation>',
            r'object 1 \(cat\) has no <bndbox>',
        ),
        (
            '<annotation><object><name>cat</name><bndbox><xmin>1</xmin>'
            '<ymin>1</ymin><xmax>2</xmax></bndbox></object></annotation>',
            r'object 1 \(cat\) has no <ymax>',
        ),
        (
            f'<annotation>{xml_object("cat", (1, 2, 3, 4))}'
            f'{xml_object("dog", (1, 2, "wide", 4))}</annotation>',
            r"<xmax> of object 2 \(dog\) must be a finite number.*'wide'",
        ),
        (
            f'<annotation>{xml_object("cat", ("nan", 2, 3, 4))}</annotation>',
            "<xmin> .*'nan'",
        ),
    ],
)
def test_malformed_xml(tmp_path, text, message):
    path = tmp_path / 'x.xml'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_voc_xml(str(path))


def test_image_without_objects(root):
    write_xml(root / 'Annotations' / '2007_000039.xml')
    assert len(VOCObjects(str(root))) == 3
    with pytest.raises(ValueError, match=r'val\.txt: none is annotated there'):
        VOCObjects(str(root), split='val', foreground='box')
