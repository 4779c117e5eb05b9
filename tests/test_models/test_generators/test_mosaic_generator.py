"""The generator: published values and counts, sizes, options, precision."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS
from published_players import published_generator
from torch import nn

from mmkd_plugin.models.generators import MosaicGenerator


def small(**options):
    return MosaicGenerator(
        **{'latent_dim': 5, 'base_channels': 2, 'image_size': 16, **options}
    )


def test_golden_vectors(golden):
    cases = golden('mosaic_networks')
    assert [int(case['img_size']) for case in cases] == [32, 16]
    for case in cases:
        z = torch.from_numpy(case['z']).double()
        for mode in ('train', 'eval'):
            net = published_generator(case)
            images = net.train(mode == 'train')(z)
            torch.testing.assert_close(
                images,
                torch.from_numpy(case[f'img_{mode}_f64']),
                rtol=1e-9,
                atol=0,
            )
            mean = net.layers[7].running_mean
            after = torch.from_numpy(
                case['G_bn_last_running_mean_after_f64']
                if mode == 'train'
                else case['G__conv_blocks_7_running_mean']
            ).double()
            torch.testing.assert_close(mean, after, rtol=1e-9, atol=0)


def test_published_count_of_parameters():
    net = MODELS.build(dict(type='MosaicGenerator'))
    assert sum(p.numel() for p in net.parameters()) == 2_026_051


@pytest.mark.parametrize(
    ('image_size', 'options', 'start', 'channels'),
    [
        (4, {}, 1, [8, 4, 2]),
        (28, {}, 7, [8, 4, 2]),
        (32, {}, 8, [8, 4, 2]),
        (64, {}, 8, [16, 8, 4, 2]),
        (96, {}, 6, [16, 16, 8, 4, 2]),
        (128, {}, 8, [16, 16, 8, 4, 2]),
        (224, {}, 7, [16, 16, 16, 8, 4, 2]),
        (64, dict(num_upsamples=2), 16, [8, 4, 2]),
        (36, dict(num_upsamples=2), 9, [8, 4, 2]),
        (6, dict(num_upsamples=1), 3, [4, 2]),
    ],
)
def test_sizes(image_size, options, start, channels, seed):
    net = small(image_size=image_size, out_channels=1, **options)
    assert net.num_upsamples == len(channels) - 1
    assert net.start_shape == (channels[0], start, start)
    norms = [m for m in net.layers if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == channels
    images = net(net.sample_latent(2))
    assert images.shape == (2, 1, image_size, image_size)
    assert images.min() > 0
    assert images.max() < 1
    assert images[0].std() > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(image_size=30),
            'multiple of 4 with 2 up steps, but got 30, nearest: 28, 32; '
            'num_upsamples=1 reaches 30',
        ),
        (dict(image_size=3), 'but got 3, nearest: 4$'),
        (
            dict(image_size=36),
            'multiple of 8 with 3 up steps, but got 36, nearest: 32, 40; '
            'num_upsamples=2 reaches 36',
        ),
        (dict(image_size=225), 'but got 225, nearest: 224, 256$'),
        (
            dict(image_size=32, num_upsamples=6),
            'but got 32, nearest: 64; num_upsamples=5 reaches 32',
        ),
        (dict(image_size=32.0), 'image_size must be an integer, but got 32.0'),
        (dict(latent_dim=0), 'latent_dim must be .* >= 1, but got 0'),
        (dict(base_channels='8'), "base_channels .* integer, but got '8'"),
        (dict(out_channels=True), 'out_channels .* integer, but got True'),
        (dict(num_upsamples=0), 'num_upsamples must be .* >= 1, but got 0'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        MosaicGenerator(**options)


def test_reachable_sizes_and_what_the_others_hear():
    reached = {step * k for step in (4, 8, 16, 32) for k in range(1, 9)}
    for size in range(1, 256):
        if size in reached:
            small(latent_dim=1, base_channels=1, image_size=size)
            continue
        near = [max([s for s in reached if s < size], default=None)]
        near.append(min(s for s in reached if s > size))
        named = ', '.join(str(s) for s in near if s is not None)
        with pytest.raises(
            ValueError, match=rf'but got {size}, nearest: {named}(;|$)'
        ):
            small(image_size=size)


def test_wrong_noise():
    for shape in ((2, 4), (5,), (2, 5, 1, 1)):
        with pytest.raises(ValueError, match=r'noise .* \(N, 5\), but got'):
            small()(torch.zeros(shape))


def test_latent_is_standard_normal_and_reproducible(seed):
    net = small().double()
    draws = [
        net.sample_latent(4, generator=torch.Generator().manual_seed(value))
        for value in (3, 3, 4)
    ]
    assert draws[0].shape == (4, 5)
    assert draws[0].dtype == torch.float64
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    many = net.sample_latent(4000)
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02
    # A generator of its own leaves the global one alone.
    before = torch.get_rng_state()
    net.sample_latent(2, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=r'count must be .* but got 0'):
        net.sample_latent(0)


def test_one_image_in_eval_mode_is_that_of_a_batch(seed):
    net = small().double()
    z = net.sample_latent(3)
    net(z)
    net.eval()
    torch.testing.assert_close(net(z[:1]), net(z)[:1], rtol=1e-12, atol=0)


def test_copies_and_checkpoints_give_the_same_images(seed):
    net = small()
    z = net.sample_latent(2)
    net(z).sum().backward()
    expected = net.eval()(z)
    loaded = small()
    loaded.load_state_dict(net.state_dict())
    copies = [
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        loaded.eval(),
    ]
    for other in copies:
        assert torch.equal(other(z), expected)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copies[0])
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in synced.layers) == 3
    assert torch.equal(synced(z), expected)


def test_channels_last(seed):
    net = small().double()
    z = net.sample_latent(2)
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    images = other(z)
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images, net(z), rtol=1e-10, atol=0)


def test_images_are_in_full_precision_under_autocast(seed):
    net = small()
    z = net.sample_latent(4)
    expected = net(z)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        images = net(z)
        assert net.layers(net.project(z).unflatten(1, (8, 4, 4))).dtype == (
            torch.bfloat16
        )
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, expected, rtol=0, atol=0.03)
    images.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert net.bfloat16()(z.bfloat16()).dtype == torch.float32


def test_extreme_noise_keeps_images_in_range(seed):
    net = small().eval()
    z = (1e6 * net.sample_latent(2)).requires_grad_()
    images = net(z)
    assert images.min() >= 0
    assert images.max() <= 1
    images.sum().backward()
    assert z.grad.isfinite().all()


def test_init_cfg_takes_effect():
    default = small()
    before = copy.deepcopy(default.state_dict())
    default.init_weights()
    for name, value in default.state_dict().items():
        assert torch.equal(value, before[name])
    net = small(
        init_cfg=dict(type='Constant', layer='Linear', val=3.0, bias=5.0)
    )
    net.init_weights()
    assert net.project.weight.unique().item() == 3.0
    assert net.project.bias.unique().item() == 5.0
