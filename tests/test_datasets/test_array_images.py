"""Data sets whose images lie in one array."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.registry import FUNCTIONS
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from mmkd_plugin.datasets import ArrayImages, array_collate


def make_images(num=5, side=4):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def test_item_is_what_pack_inputs_makes():
    images = make_images()
    item = ArrayImages(images, labels=[3, 1, 4, 1, 5])[np.int64(2)]
    assert set(item) == {'inputs', 'data_samples'}
    assert item['inputs'].dtype == torch.uint8
    assert item['inputs'].tolist() == images[2].transpose(2, 0, 1).tolist()
    assert isinstance(item['data_samples'], DataSample)
    assert item['data_samples'].gt_label.tolist() == [4]
    assert item['data_samples'].sample_idx == 2


def test_item_without_labels_has_none():
    assert 'gt_label' not in ArrayImages(make_images())[0]['data_samples']


def test_item_is_a_copy():
    images = make_images()
    before = images.copy()
    ArrayImages(images)[0]['inputs'].zero_()
    ArrayImages(images).__getitems__([0, 1])['inputs'].zero_()
    assert np.array_equal(images, before)


def test_batch():
    images = make_images()
    batch = ArrayImages(images, labels=[3, 1, 4, 1, 5]).__getitems__([4, 0, 4])
    assert batch['sample_idx'].tolist() == [4, 0, 4]
    assert batch['gt_label'].tolist() == [5, 3, 5]
    assert batch['inputs'].is_contiguous(memory_format=torch.channels_last)
    expected = images[[4, 0, 4]].transpose(0, 3, 1, 2)
    assert batch['inputs'].tolist() == expected.tolist()
    assert 'gt_label' not in ArrayImages(images).__getitems__([0])


@pytest.mark.parametrize('workers', [0, 2])
def test_data_loader_passes_batches_on(workers):
    images = make_images()
    loader = DataLoader(
        ArrayImages(images),
        batch_size=2,
        num_workers=workers,
        collate_fn=array_collate,
    )
    batches = list(loader)
    assert [b['sample_idx'].tolist() for b in batches] == [[0, 1], [2, 3], [4]]
    joined = torch.cat([batch['inputs'] for batch in batches])
    assert joined.tolist() == images.transpose(0, 3, 1, 2).tolist()


def test_array_collate_merges_single_samples():
    assert FUNCTIONS.get('array_collate') is array_collate
    merged = array_collate([dict(inputs=1), dict(inputs=2)])
    assert merged == dict(inputs=[1, 2])


def test_fingerprint_names_the_content():
    images = make_images()
    prints = {
        ArrayImages(images).fingerprint(),
        ArrayImages(images, labels=[0] * 5).fingerprint(),
        ArrayImages(images, labels=[0, 0, 0, 0, 1]).fingerprint(),
        ArrayImages(images[::-1]).fingerprint(),
        ArrayImages(images[:4]).fingerprint(),
        # the same bytes in another shape
        ArrayImages(images.reshape(5, 2, 8, 3)).fingerprint(),
    }
    assert len(prints) == 6
    copy = pickle.loads(pickle.dumps(ArrayImages(images)))
    assert copy.fingerprint() == ArrayImages(images.copy()).fingerprint()


def test_metainfo_cannot_be_changed_from_outside():
    dataset = ArrayImages(make_images(), classes=('a', 'b'))
    dataset.metainfo['classes'].append('c')
    assert dataset.metainfo == dict(classes=['a', 'b'])
    assert ArrayImages(make_images()).metainfo == {}


@pytest.mark.parametrize(
    ('images', 'labels', 'error', 'match'),
    [
        (make_images().astype(float), None, TypeError, 'float64'),
        (make_images()[..., 0], None, ValueError, r'\(5, 4, 4\)'),
        (make_images()[..., :2], None, ValueError, r'\(5, 4, 4, 2\)'),
        (make_images()[:0], None, ValueError, 'holds no image'),
        (make_images(), [1, 2], ValueError, '2 labels do not fit 5 images'),
    ],
)
def test_wrong_arrays_are_refused(images, labels, error, match):
    with pytest.raises(error, match=match):
        ArrayImages(images, labels)
