"""Many images of a trained generator."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toy_generators import toy_generator

from mmkd_plugin.engine.synthesis import synthesize


def images_of(*args, **kwargs):
    return np.concatenate(list(synthesize(*args, **kwargs)))


class Values(nn.Module):
    """Makes one image of given numbers, whatever the noise is."""

    latent_dim = 1

    def __init__(self, *values):
        super().__init__()
        self.values = values

    def sample_latent(self, count, *, generator=None):
        return torch.zeros(count, 1)

    def forward(self, z):
        values = torch.tensor(self.values, dtype=torch.double)
        return values.expand(len(z), 3, 1, -1)


def test_values():
    """They are those of the generator, rounded, in the same order."""
    generator = toy_generator()
    found = images_of(generator, 5, seed=7, batch_size=2)
    network = copy.deepcopy(generator).double()
    source = torch.Generator().manual_seed(7)
    z = torch.cat(
        [network.sample_latent(1, generator=source) for _ in range(5)]
    )
    with torch.no_grad():
        expected = 255 * network(z).permute(0, 2, 3, 1).numpy()
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.rint(expected))
    # Close to the network in its own precision, and not all alike.
    with torch.no_grad():
        single = 255 * generator(z.float()).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - single).max() < 0.51
    assert found.std() > 20
    assert np.abs(np.diff(found.astype(int), axis=0)).max() > 20


def test_network_computes_in_double():
    """Else pixels near a half would depend on the batch size."""
    generator, seen = toy_generator(), []
    generator.register_forward_pre_hook(
        lambda module, args: seen.append((args[0].dtype, module.training))
    )
    images_of(generator, 3, batch_size=2)
    assert seen == [(torch.double, False)] * 2


def test_half_is_rounded_to_even():
    pixels = (0.0, 0.5, 1.5, 2.5, 254.5, 255.0, 99.49, 99.51)
    found = images_of(Values(*(p / 255 for p in pixels)), 2)
    assert found.shape == (2, 1, 8, 3)
    expected = [0, 0, 2, 2, 254, 255, 99, 100]
    assert found[1, 0, :, 2].tolist() == expected


@pytest.mark.parametrize('batch_size', [1, 3, 4, 64])
def test_batch_size_does_not_matter(batch_size):
    generator = toy_generator()
    expected = images_of(generator, 20)
    blocks = list(synthesize(generator, 20, batch_size=batch_size))
    assert max(map(len, blocks)) == min(batch_size, 20)
    assert np.array_equal(np.concatenate(blocks), expected)


def test_seed():
    generator = toy_generator()
    first = images_of(generator, 20)
    assert not np.array_equal(images_of(generator, 20, seed=1), first)
    # More images begin with the same ones.
    assert np.array_equal(images_of(generator, 30)[:20], first)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert np.array_equal(images_of(generator, 20), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_generator_stays_what_it_is():
    generator = toy_generator().train()
    before = copy.deepcopy(generator.state_dict())
    blocks = synthesize(generator, 6, batch_size=3)
    first = next(blocks)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    rest = next(blocks)
    assert generator.training
    for key, value in generator.state_dict().items():
        assert value.dtype == before[key].dtype
    generator.load_state_dict(before)
    assert np.array_equal(
        images_of(generator, 6), np.concatenate([first, rest])
    )


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(num_images=0), 'num_images must be .*, but got 0'),
        (dict(num_images=1.5), 'num_images must be an integer, but got 1.5'),
        (dict(seed=-1), 'seed must be .*>= 0, but got -1'),
        (dict(seed=2**32), 'seed must be .*<= 4294967295, but got 4294967296'),
        (dict(batch_size=0), 'batch_size must be .*, but got 0'),
    ],
)
def test_options_are_checked_at_once(options, match):
    options = dict(num_images=2) | options
    with pytest.raises(ValueError, match=match):
        synthesize(toy_generator(), **options)


@pytest.mark.parametrize(
    ('values', 'match'),
    [
        ((0.5, -0.1), r'\[0, 1\], but made values from -0\.1 to 0\.5'),
        ((1.5, 0.1), r'but made values from 0\.1 to 1\.5'),
        ((0.5, float('nan')), 'but made values from nan'),
    ],
)
def test_values_without_a_pixel(values, match):
    with pytest.raises(ValueError, match=match):
        images_of(Values(*values), 1)
