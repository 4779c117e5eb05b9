"""The scenes of the demo: outside of the mask nothing tells the class."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS

from mmkd_plugin.datasets import DemoDigits, DemoScenes, demo_scenes


def test_registered():
    assert DATASETS.get('DemoScenes') is DemoScenes


@pytest.fixture(scope='module')
def scenes():
    return DemoScenes('val', num_images=350)


class OtherDigits(DemoDigits):
    """The same digits, each in the place of one of another class."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        order = np.argsort(self.labels, kind='stable')
        # By more than the largest class.
        other = np.empty_like(order)
        other[order] = np.roll(order, 45)
        assert (self.labels[other] != self.labels).all()
        self.images, self.labels = self.images[other], self.labels[other]


def test_outside_of_the_mask_nothing_depends_on_the_digit(scenes, monkeypatch):
    monkeypatch.setattr(demo_scenes, 'DemoDigits', OtherDigits)
    others = DemoScenes('val', num_images=350)
    assert (others.labels != scenes.labels).all()
    # Of each scene alone, not only of where one of both has its strokes.
    assert np.array_equal(others.masks, scenes.masks)
    outside = ~scenes.masks
    assert np.array_equal(others.images[outside], scenes.images[outside])
    differs = (others.images != scenes.images).any(-1)
    # Inside there is the digit.
    assert differs.any((1, 2)).all()
    assert 0.3 < differs[scenes.masks].mean() < 1


def drawn(split, level=None, **options):
    """Tell which pixels are painted, by a look at the same without digits.

    Args:
        split (str): The split.
        level (int, optional): What all pixels of the digits are made, the
            ink. Defaults to None, the digits themselves.
        **options: Those of the scenes.
    """

    def even(ink):
        class EvenDigits(DemoDigits):
            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                self.images = np.full_like(self.images, ink)

        return EvenDigits

    images = []
    for ink in (level, 0):
        with pytest.MonkeyPatch.context() as patch:
            if ink is not None:
                patch.setattr(demo_scenes, 'DemoDigits', even(ink))
            images.append(DemoScenes(split, **options).images)
    # No texture is as bright as paint.
    return (images[0] != images[1]).any(-1)


@pytest.mark.parametrize('size', [16, 32, 45])
def test_the_mask_is_the_square_of_the_digit(size):
    options = dict(num_images=40, size=size, seed=3)
    masks = DemoScenes('val', **options).masks
    assert np.array_equal(masks, drawn('val', 255, **options))
    half = size // 2
    for mask in masks:
        y, x = np.argwhere(mask)[0]
        assert mask[y : y + half, x : x + half].all()
        assert mask.sum() == half**2
    strokes = drawn('val', **options)
    assert not (strokes & ~masks).any()
    assert 0.2 < strokes[masks].mean() < 0.8


def test_digits_of_a_split_are_its_own():
    """Each digit is there, in the order of a shuffled round."""
    digits = DemoDigits('test', size=16)
    scenes = DemoScenes('test', num_images=2 * len(digits))
    for half in (slice(0, len(digits)), slice(len(digits), None)):
        assert np.array_equal(
            np.bincount(scenes.labels[half]), np.bincount(digits.labels)
        )
    boxes = {
        _cut(image >= demo_scenes._FAINTEST).tobytes()
        for image in digits.images[..., 0]
    }
    assert len(boxes) > 590
    strokes = drawn('test', num_images=2 * len(digits))
    assert all(_cut(mask).tobytes() in boxes for mask in strokes)
    # A few of the strokes are like some in the other split by chance.
    others = drawn('train', num_images=300)
    found = [_cut(mask).tobytes() in boxes for mask in others]
    assert np.mean(found) < 0.05


def _cut(strokes):
    """Cut out the box of a mask."""
    rows, columns = strokes.any(1).nonzero()[0], strokes.any(0).nonzero()[0]
    box = strokes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(box, ((0, 16 - len(box)), (0, 16 - len(box[0]))))


def test_the_same_for_the_same_options(scenes):
    np.random.seed(1)
    again = DemoScenes('val', num_images=50)
    assert np.array_equal(again.images, scenes.images[:50])
    assert np.array_equal(again.masks, scenes.masks[:50])
    assert again.labels.tolist() == scenes.labels[:50].tolist()
    for other in (
        DemoScenes('val', num_images=50, seed=1),
        DemoScenes('test', num_images=50),
    ):
        same = (other.images == again.images).all((1, 2, 3))
        assert not same.any()


def test_scenes(scenes):
    assert scenes.images.shape == (350, 32, 32, 3)
    assert scenes.masks.shape == (350, 32, 32)
    assert scenes.metainfo['classes'] == list('0123456789')
    # In any place.
    first = np.array([np.argwhere(mask)[0] for mask in scenes.masks])
    for axis in (0, 1):
        assert set(first[:, axis]) == set(range(17))
    assert len(np.unique(first, axis=0)) > 150
    # The background is not a plain one, nor as bright as the digit.
    outside = np.where(scenes.masks[..., None], np.nan, scenes.images)
    assert np.median(np.nanstd(outside, (1, 2)).max(-1)) > 20
    inside = scenes.images[scenes.masks].mean()
    assert inside > np.nanmean(outside) + 30
    small = DemoScenes('val', num_images=3, size=16)
    assert small.images.shape == (3, 16, 16, 3)


def test_sample_and_batch(scenes):
    packed = scenes[7]
    sample = packed['data_samples']
    assert sample.gt_seg_map.dtype == np.uint8
    assert np.array_equal(sample.gt_seg_map, scenes.masks[7])
    assert sample.gt_label.item() == scenes.labels[7]
    image = torch.from_numpy(scenes.images[7]).permute(2, 0, 1)
    assert torch.equal(packed['inputs'], image)
    batch = scenes.__getitems__([7, 3])
    assert set(batch) == {'inputs', 'sample_idx', 'gt_label'}
    assert torch.equal(batch['inputs'][0], image)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(split='dev'), r"split must be one of .*'train'.*'dev'"),
        (dict(num_images=0), 'num_images must be .* >= 1, but got 0'),
        (dict(size=15), 'size must be .* >= 16, but got 15'),
        (dict(seed=-1), 'seed must be .* >= 0, but got -1'),
    ],
)
def test_options_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        DemoScenes(**options)
