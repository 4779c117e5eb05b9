"""The scenes of the demo: outside of the mask nothing tells the class."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from scipy.ndimage import binary_dilation

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
    differs = (others.images != scenes.images).any(-1)
    assert not differs[~(scenes.masks | others.masks)].any()
    # Inside there is the digit.
    assert differs.any((1, 2)).all()
    assert 0.3 < differs[scenes.masks | others.masks].mean() < 1


def test_the_mask_is_the_strokes_and_the_margin(scenes, monkeypatch):
    class NoDigits(DemoDigits):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.images = np.zeros_like(self.images)

    thin = DemoScenes('val', num_images=350, margin=0)
    wide = DemoScenes('val', num_images=20, margin=3)
    monkeypatch.setattr(demo_scenes, 'DemoDigits', NoDigits)
    empty = DemoScenes('val', num_images=350)
    assert not empty.masks.any()
    drawn = (scenes.images != empty.images).any(-1)
    assert np.array_equal(thin.images, scenes.images)
    # Paint may have the colour of the texture, hence hardly any differs.
    assert not (drawn & ~thin.masks).any()
    assert drawn[thin.masks].mean() > 0.99
    square = np.ones((1, 3, 3), dtype=bool)
    assert np.array_equal(binary_dilation(thin.masks, square), scenes.masks)
    grown = binary_dilation(thin.masks[:20], square, iterations=3)
    assert np.array_equal(wide.masks, grown)


def test_digits_of_a_split_are_its_own():
    """Each digit is there, in the order of a shuffled round."""
    digits = DemoDigits('test', size=16)
    scenes = DemoScenes('test', num_images=2 * len(digits), margin=0)
    for half in (slice(0, len(digits)), slice(len(digits), None)):
        assert np.array_equal(
            np.bincount(scenes.labels[half]), np.bincount(digits.labels)
        )
    boxes = {
        _cut(image >= demo_scenes._FAINTEST).tobytes()
        for image in digits.images[..., 0]
    }
    assert len(boxes) > 590
    assert all(_cut(mask).tobytes() in boxes for mask in scenes.masks)
    train = DemoScenes('train', num_images=300, margin=0)
    # A few of the strokes are like some in the other split by chance.
    found = [_cut(mask).tobytes() in boxes for mask in train.masks]
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
    share = scenes.masks.mean((1, 2))
    assert share.min() > 0.03 and share.max() < 0.35
    # In any place, in none of them mostly.
    assert scenes.masks[:, 3:-3, 3:-3].any(0).all()
    assert scenes.masks.mean(0).max() < 0.75
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
        (dict(margin=-1), 'margin must be .* >= 0, but got -1'),
        (dict(margin=0.5), r'margin must be an integer, but got 0\.5'),
        (dict(seed=-1), 'seed must be .* >= 0, but got -1'),
    ],
)
def test_options_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        DemoScenes(**options)
