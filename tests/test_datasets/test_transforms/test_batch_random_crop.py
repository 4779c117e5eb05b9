"""Random crops of batches, against crops pixel by pixel."""

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS

from mmkd_plugin.datasets import BatchRandomCrop


def make_batch(count, height, width, dtype=torch.uint8):
    # No two pixels of an image are equal, and none is zero.
    numbers = 1 + torch.arange(count * 3 * height * width) % 251
    return numbers.view(count, 3, height, width).to(dtype)


def reference(images, size, padding, rng):
    """Crop by crop and pixel by pixel."""
    count, channels, height, width = images.shape
    tops = rng.integers(0, height + 2 * padding - size + 1, count)
    lefts = rng.integers(0, width + 2 * padding - size + 1, count)
    result = torch.zeros(count, channels, size, size, dtype=images.dtype)
    for i in range(count):
        for y in range(size):
            for x in range(size):
                row = int(tops[i]) + y - padding
                column = int(lefts[i]) + x - padding
                if 0 <= row < height and 0 <= column < width:
                    result[i, :, y, x] = images[i, :, row, column]
    return result


def test_registered():
    assert TRANSFORMS.get('BatchRandomCrop') is BatchRandomCrop


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ('height', 'width', 'size', 'padding'),
    [
        (6, 6, 6, 2),
        (7, 5, 4, 0),
        (4, 9, 4, 1),
        (5, 5, 9, 2),
        (6, 6, 6, 0),
        (3, 3, 1, 4),
    ],
)
def test_equals_crops_pixel_by_pixel(height, width, size, padding, dtype):
    images = make_batch(7, height, width, dtype)
    before = images.clone()
    crop = BatchRandomCrop(size, padding=padding)
    for seed in range(3):
        result = crop(images, np.random.default_rng(seed))
        expected = reference(
            images, size, padding, np.random.default_rng(seed)
        )
        assert result.dtype == dtype
        assert torch.equal(result, expected)
    assert torch.equal(images, before)


def test_memory_format_does_not_matter():
    images = make_batch(5, 6, 6)
    crop = BatchRandomCrop(6, padding=2)
    one = crop(images, np.random.default_rng(0))
    two = crop(
        images.contiguous(memory_format=torch.channels_last),
        np.random.default_rng(0),
    )
    assert torch.equal(one, two)


def test_every_place_is_reached_equally_often():
    images = make_batch(1, 4, 5)[:, :1].expand(3000, -1, -1, -1)
    crop = BatchRandomCrop(4, padding=1)
    result = crop(images, np.random.default_rng(0))
    places, counts = torch.unique(result, dim=0, return_counts=True)
    # 3 rows times 4 columns
    assert len(places) == 12
    assert counts.min() > 250 * 0.8
    assert counts.max() < 250 * 1.2


def test_images_smaller_than_the_crop():
    crop = BatchRandomCrop(9, padding=1)
    with pytest.raises(
        ValueError, match=r'9 pixels and a padding of 1 .* \(8, 6\)'
    ):
        crop(make_batch(2, 8, 6), np.random.default_rng(0))


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(crop_size=0), 'crop_size must be .* >= 1, but got 0'),
        (dict(crop_size=4, padding=-1), 'padding must be .* >= 0.*-1'),
        (dict(crop_size='4'), "but got '4'"),
    ],
)
def test_options_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        BatchRandomCrop(**options)


def test_repr():
    crop = BatchRandomCrop(32, padding=4)
    assert repr(crop) == 'BatchRandomCrop(crop_size=32, padding=4)'
