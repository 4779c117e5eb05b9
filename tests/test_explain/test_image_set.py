"""Tests of loading images with foregrounds."""

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from mmkd_plugin.explain import load_images


def item(value, mask=None, size=(4, 4), **metainfo):
    sample = DataSample(metainfo=metainfo)
    if mask is not None:
        sample.set_field(mask, 'gt_seg_map')
    image = torch.full((3, *size), value, dtype=torch.uint8)
    return dict(inputs=image, data_samples=sample)


def mask(rows=2, size=(4, 4)):
    made = np.zeros(size, dtype=np.uint8)
    made[:rows] = 255
    return made


def test_images_masks_and_names():
    named = item(1, mask(), img_path='some/where/a.jpg')
    named['data_samples'].set_gt_label(3)
    # As a flip leaves it.
    other = item(2, mask(1)[:, ::-1], name='b#2', img_path='some/where/b.jpg')
    found = load_images([named, other, item(3, mask(0))])
    assert found.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert found.masks.sum((1, 2)).tolist() == [8, 4, 0]
    assert found.masks.dtype == torch.bool
    assert found.masks[0, 0].all() and not found.masks[0, 2].any()
    assert found.names == ['a.jpg', 'b#2', 'image 2']
    assert found.labels == [3, None, None]


def test_files_of_one_name_are_told_apart():
    files = ['/data/x/a/0.png', '/data/x/b/0.png', '/data/x/b/c/0.png']
    found = load_images([item(0, mask(), img_path=file) for file in files])
    assert found.names == ['a/0.png', 'b/0.png', 'b/c/0.png']
    found = load_images([item(0, mask(), img_path='0.png')])
    assert found.names == ['0.png']


def test_some_are_drawn_in_the_order_of_the_set():
    dataset = [item(i, mask()) for i in range(20)]
    drawn = load_images(dataset, 6).images[:, 0, 0, 0].tolist()
    assert drawn == sorted(set(drawn)) and len(drawn) == 6
    assert drawn == load_images(dataset, 6).images[:, 0, 0, 0].tolist()
    assert drawn != load_images(dataset, 6, seed=1).images[:, 0, 0, 0].tolist()
    assert len(load_images(dataset, 100).names) == 20


def test_faults_name_the_image():
    with pytest.raises(ValueError, match=r'a\.jpg.*no gt_seg_map.*LoadFore'):
        load_images([item(0, img_path='x/a.jpg')])
    with pytest.raises(ValueError, match=r'b: the mask has 6 x 4.*image 4 x'):
        load_images([item(0, mask(size=(6, 4)), name='b')])
    with pytest.raises(ValueError, match=r'image 1 has 8 x 4.*image 0 4 x 4'):
        load_images([item(0, mask()), item(0, mask(2, (8, 4)), (8, 4))])
    with pytest.raises(ValueError, match='no images'):
        load_images([])
    with pytest.raises(ValueError, match=r'num_images must be .*>= 1'):
        load_images([item(0, mask())], 0)
