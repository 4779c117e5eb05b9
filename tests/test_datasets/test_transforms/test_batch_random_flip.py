"""Random mirror images of batches, against a loop."""

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS

from mmkd_plugin.datasets import BatchRandomFlip


def make_batch(count=9, dtype=torch.uint8):
    return (torch.arange(count * 3 * 4 * 5) % 251).view(-1, 3, 4, 5).to(dtype)


def reference(images, prob, rng):
    draws = rng.random(len(images))
    result = images.clone()
    for i in range(len(images)):
        if draws[i] < prob:
            for x in range(images.shape[-1]):
                result[i, :, :, x] = images[i, :, :, -1 - x]
    return result


def test_registered():
    assert TRANSFORMS.get('BatchRandomFlip') is BatchRandomFlip


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize('prob', [0, 0.3, 0.5, 1])
def test_equals_a_loop(prob, dtype):
    images = make_batch(dtype=dtype)
    before = images.clone()
    for seed in range(3):
        result = BatchRandomFlip(prob)(images, np.random.default_rng(seed))
        expected = reference(images, prob, np.random.default_rng(seed))
        assert result.dtype == dtype
        assert torch.equal(result, expected)
    assert torch.equal(images, before)


def test_never_and_always():
    images = make_batch()
    rng = np.random.default_rng(0)
    assert torch.equal(BatchRandomFlip(0)(images, rng), images)
    assert torch.equal(BatchRandomFlip(1)(images, rng), images.flip(-1))


def test_share_of_mirrored_images():
    images = make_batch(1).expand(4000, -1, -1, -1)
    result = BatchRandomFlip(0.3)(images, np.random.default_rng(0))
    mirrored = (result != images).flatten(1).any(1).float().mean()
    assert mirrored.item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize('prob', [-0.1, 1.1, float('nan'), None])
def test_probability_out_of_range(prob):
    with pytest.raises(ValueError, match=f'prob must be .* but got {prob}'):
        BatchRandomFlip(prob)


def test_repr():
    assert repr(BatchRandomFlip(0.25)) == 'BatchRandomFlip(prob=0.25)'
