"""Pictures of what MosaicKD's players make."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toy_runs import leaves

import mmkd_plugin.engine.mosaic_picture as m
from mmkd_plugin.engine.mosaic_picture import mosaic_picture
from mmkd_plugin.engine.mosaic_players import MosaicPlayers
from mmkd_plugin.utils.counter_rng import counter_rng


def build(channels=3, **options):
    players = MosaicPlayers(
        dict(
            type='MosaicGenerator',
            latent_dim=5,
            base_channels=3,
            image_size=8,
            out_channels=channels,
        ),
        dict(
            type='PatchDiscriminator',
            base_channels=4,
            in_channels=channels,
            patch_size=6,
        ),
        mean=[100.0, 120.0, 140.0][:channels],
        std=[50.0, 60.0, 70.0][:channels],
        **options,
    )
    # Neither grey nor all alike; and statistics that are not the identity.
    generator = players.generator
    generator.project.weight.data.mul_(8)
    generator.layers[-1].weight.data.mul_(8)
    for buffer in generator.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return players


class Teacher(nn.Module):
    """Tells bright images from dark ones."""

    def forward(self, images):
        bright = images.mean((1, 2, 3))
        return torch.stack([-bright, bright], dim=1)


def draw(players, real=None, **options):
    if real is None:
        channels = players.generator.out_channels
        real = torch.linspace(-1, 1, 4 * channels * 64)
        real = real.view(4, channels, 8, 8)
    options = {'columns': 4, **options}
    return mosaic_picture(players, Teacher(), real, 'epoch 3', **options)


@pytest.fixture
def figures(monkeypatch):
    """What the pictures are drawn of."""
    found = []
    figure = m.mosaic_figure

    def noted(synthetic, real, patch_size, title, **options):
        found.append((synthetic, real, patch_size, title))
        return figure(synthetic, real, patch_size, title, **options)

    monkeypatch.setattr(m, 'mosaic_figure', noted)
    return found


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_nothing_changes(mode, training, seed):
    players = build(sample_mode=mode)
    players.generator.layers[0].train(training)
    before = leaves(copy.deepcopy(players.state_dict()))
    modes = [module.training for module in players.generator.modules()]
    drawn = torch.get_rng_state()
    draw(players)
    assert leaves(players.state_dict()) == before
    after = [module.training for module in players.generator.modules()]
    assert after == modes
    assert torch.get_rng_state().equal(drawn)


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_images_of_the_seed_in_eval_mode(mode, figures, seed):
    players = build(sample_mode=mode)
    players.sample(3)
    one, same = draw(players, seed=4), draw(players, seed=4)
    other = draw(players, seed=5)
    assert one.dtype == np.uint8 and one.shape[2] == 3
    assert np.array_equal(one, same)
    assert one.shape == other.shape and not np.array_equal(one, other)
    rng = counter_rng(4, 0, 0, stream=3)
    source = torch.Generator().manual_seed(int(rng.integers(2**63)))
    z = players.generator.sample_latent(4, generator=source)
    with torch.no_grad():
        images = players.generator.eval()(z).permute(0, 2, 3, 1)
    for picked, image in zip(figures[0][0], images, strict=True):
        deviation = np.abs(picked.image - 255 * image.numpy()).max()
        assert deviation <= 0.501


def test_labels_and_pixels(figures, seed):
    players = build()
    pixels = torch.tensor([10.0, 250.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    real = players.normalise(pixels / 255)
    draw(players, real, classes=['dark', 'bright'])
    draw(players, real, classes=['dark'])
    for (_, picks, patch, title), names in zip(
        figures, (['dark', 'bright'], ['dark', '1']), strict=True
    ):
        assert (patch, title) == (6, 'epoch 3')
        assert [picked.label for picked in picks] == names
        assert [np.unique(p.image).tolist() for p in picks] == [[10], [250]]
        # Minus the logarithm of the probability of the class.
        bright = real.mean((1, 2, 3))
        expected = torch.nn.functional.softplus(-2 * bright.abs())
        found = [picked.uncertainty for picked in picks]
        assert found == pytest.approx(expected.tolist(), rel=1e-4)


def test_one_channel(figures, seed):
    players = build(channels=1)
    real = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    picture = draw(players, players.normalise(real))
    assert picture.ndim == 3 and picture.shape[2] == 3
    synthetic, (picked,), _, _ = figures[0]
    grey = (real[0, 0] * 255).round().byte().numpy()
    assert np.array_equal(picked.image, np.stack([grey] * 3, axis=2))
    for one in synthetic:
        assert one.image.shape == (8, 8, 3)
        assert np.ptp(one.image, axis=2).max() == 0
        assert np.ptp(one.image) > 0
