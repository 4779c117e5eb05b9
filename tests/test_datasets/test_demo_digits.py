"""The digits of the demo: fixed, stratified and disjoint splits."""

from itertools import chain

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image
from sklearn.datasets import load_digits

from mmkd_plugin.datasets import DemoDigits

SPLITS = ('train', 'val', 'test')


def test_registered():
    assert DATASETS.get('DemoDigits') is DemoDigits


def positions(split):
    """Find the images of a split among scikit-learn's, by their pixels."""
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    place = {image.tobytes(): i for i, image in enumerate(grey)}
    assert len(place) == 1797
    # At 8 pixels nothing is resized.
    dataset = DemoDigits(split, size=8)
    assert (dataset.images == dataset.images[..., :1]).all()
    found = [place[image.tobytes()] for image in dataset.images[..., 0]]
    assert dataset.labels.tolist() == digits.target[found].tolist()
    return found


def test_splits_are_disjoint_and_cover_everything():
    found = {split: positions(split) for split in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [900, 299, 598]
    assert sorted(chain(*found.values())) == list(range(1797))


def test_splits_are_stratified():
    whole = np.bincount(load_digits().target) / 1797
    for split in SPLITS:
        labels = DemoDigits(split).labels
        share = np.bincount(labels) / len(labels)
        assert np.abs(share - whole).max() < 0.01


def test_images_are_magnified():
    large = DemoDigits('val', size=16).images
    small = DemoDigits('val', size=8).images
    assert large.shape == (299, 16, 16, 3)
    expected = Image.fromarray(small[7, ..., 0]).resize(
        (16, 16), Image.BICUBIC
    )
    assert np.array_equal(large[7, ..., 1], np.asarray(expected))
    assert DemoDigits('val').images.shape == large.shape


def test_splits_are_the_same_for_ever():
    """What is published about a split holds for this content alone."""
    assert {
        split: DemoDigits(split, size=8).fingerprint()[:16] for split in SPLITS
    } == dict(
        train='c58e35e3ec7af956',
        val='398aa427e082db9f',
        test='85bdc047586b79df',
    )


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(split='dev'), r"split must be one of .*'train'.*'dev'"),
        (dict(size=4), 'size must be .* >= 8, but got 4'),
    ],
)
def test_options_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        DemoDigits(**options)


def test_classes():
    assert DemoDigits().metainfo['classes'] == list('0123456789')


def test_part_of_a_split():
    few = DemoDigits('train', num_images=45)
    assert np.bincount(few.labels).tolist() == [5] * 5 + [4] * 5
    everything = [image.tobytes() for image in DemoDigits('train').images]
    more = [image.tobytes() for image in DemoDigits(num_images=60).images]
    some = [image.tobytes() for image in few.images]
    assert set(some) < set(more) < set(everything)
    assert len(set(some)) == 45
    # In the order of the split.
    places = [everything.index(image) for image in some]
    assert places == sorted(places)
    with pytest.raises(ValueError, match=r'at most 900, .* but got 901'):
        DemoDigits(num_images=901)
    with pytest.raises(ValueError, match=r'num_images must be .* got 0'):
        DemoDigits(num_images=0)
