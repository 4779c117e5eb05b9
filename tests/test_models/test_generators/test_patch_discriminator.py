"""The discriminator: published values, and what a logit really sees."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS
from published_players import published_discriminator, published_generator
from torch import nn

from mmkd_plugin.models.generators import PatchDiscriminator

# Of CIFAR-100.
MEAN = torch.tensor([0.5071, 0.4867, 0.4408], dtype=torch.double)
STD = torch.tensor([0.2675, 0.2565, 0.2761], dtype=torch.double)
SIZES = [1, 2, 3, 4, 6, 8, 10, 14, 18, 22, 30, 38, 46, 62, 78, 94, 126]
SIZES += [158, 190, 254, 318]


def test_golden_vectors(golden):
    for case in golden('mosaic_networks'):
        for mode in ('train', 'eval'):
            net = published_discriminator(case).train(mode == 'train')
            images = torch.from_numpy(case[f'img_{mode}_f64'])
            torch.testing.assert_close(
                net((images - MEAN[:, None, None]) / STD[:, None, None]),
                torch.from_numpy(case[f'd_out_{mode}_f64']),
                rtol=1e-9,
                atol=0,
            )
            after = torch.from_numpy(
                case['D_bn_running_var_after_f64']
                if mode == 'train'
                else case['D__main_3_running_var']
            ).double()
            torch.testing.assert_close(
                net.layers[3].running_var, after, rtol=1e-9, atol=0
            )


def test_published_images_smaller_than_a_patch(golden):
    (case,) = golden('mosaic_trajectory')
    count = int(case['batch_size'])
    real = torch.from_numpy(case['real'][:count])
    assert real.shape[2:] == (8, 8)
    with pytest.raises(ValueError, match='got 10 for images of 8x8'):
        published_discriminator(case, 'D_before__')(real)
    net = published_discriminator(case, 'D_before__', allow_larger_patch=True)
    generator = published_generator(case, 'G_before__')
    fake = generator(torch.from_numpy(case['z'][0]))
    fake = (fake - MEAN[:, None, None]) / STD[:, None, None]
    # The first loss of the discriminator in the published run.
    loss = nn.functional.softplus(net(fake)).sum()
    loss = loss + nn.functional.softplus(-net(real)).sum()
    loss = float(case['local']) * loss / (2 * count)
    assert loss.item() == pytest.approx(case['loss_d_seq'][0], rel=1e-9)


def test_published_network():
    net = MODELS.build(dict(type='PatchDiscriminator'))
    assert sum(p.numel() for p in net.parameters()) == 531_328
    assert (net.receptive_field, net.stride) == (10, 4)
    assert 'patch_size=10, receptive_field=10, stride=4' in repr(net)


def seen(net, images, row, column):
    """Get first and last row and column that a logit depends on."""
    images = images.clone().requires_grad_()
    net(images)[0, 0, row, column].backward()
    sees = images.grad[0].abs().sum(0) > 0
    rows, columns = sees.any(1).nonzero(), sees.any(0).nonzero()
    # Nothing in the square is left out.
    square = sees[rows.min() : rows.max() + 1]
    assert square[:, columns.min() : columns.max() + 1].all()
    return [int(f) for x in (rows, columns) for f in (x.min(), x.max())]


@pytest.mark.parametrize('patch_size', SIZES)
def test_a_patch_is_what_a_logit_sees(patch_size, seed):
    net = PatchDiscriminator(
        in_channels=1, base_channels=1, patch_size=patch_size
    )
    assert net.receptive_field == patch_size
    net.double().eval()
    stride = net.stride
    images = torch.rand(1, 1, *[patch_size + 4 * stride] * 2).double()
    # Far enough from the border that all of the patch is on the image.
    middle = net(images).shape[-1] // 2
    top, bottom, left, right = seen(net, images, middle, middle - 1)
    assert top - left == stride
    assert bottom - top + 1 == patch_size
    assert right - left + 1 == patch_size


@pytest.mark.parametrize(
    ('patch_size', 'side'),
    [(1, 32), (2, 31), (4, 16), (6, 15), (8, 16), (10, 8), (18, 8), (22, 4)],
)
def test_logits_of_an_image(patch_size, side, seed):
    net = PatchDiscriminator(base_channels=2, patch_size=patch_size)
    assert net(torch.rand(3, 3, 32, 32)).shape == (3, 1, side, side)


def test_width_of_the_deeper_forms():
    net = PatchDiscriminator(base_channels=2, patch_size=46)
    convs = [m for m in net.layers if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convs] == [2, 4, 8, 8, 1]
    assert [m.bias is None for m in convs] == [False, *[True] * 4]
    assert [m.kernel_size[0] for m in convs] == [4, 4, 4, 4, 1]
    # The small ones have two hidden layers, too.
    net = PatchDiscriminator(base_channels=2, patch_size=1)
    convs = [m for m in net.layers if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convs] == [2, 4, 1]


@pytest.mark.parametrize('image_size', [4, 7, 16, 28, 32, 33, 64, 224])
def test_the_whole_image_gives_one_logit(image_size, seed):
    net = PatchDiscriminator(
        in_channels=1,
        base_channels=1,
        patch_size='image',
        image_size=image_size,
    )
    net.double().eval()
    images = torch.rand(1, 1, image_size, image_size).double()
    assert net(images).shape == (1, 1, 1, 1)
    last = image_size - 1
    assert seen(net, images, 0, 0) == [0, last, 0, last]
    assert net.receptive_field >= image_size


def test_the_whole_image_at_32_goes_down_to_4():
    net = PatchDiscriminator(
        base_channels=2, patch_size='image', image_size=32
    )
    convs = [m for m in net.layers if isinstance(m, nn.Conv2d)]
    assert [m.stride[0] for m in convs] == [2, 2, 2, 1]
    assert convs[-1].kernel_size == (4, 4)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(patch_size=15), r'1, 2, 3, .* 318\], but got 15, .*: 14, 18'),
        (dict(patch_size=0), 'but got 0, nearest: 1, 2'),
        (dict(patch_size=1000), 'but got 1000, nearest: 254, 318'),
        (dict(patch_size=10.0), r"patch_size must be 'image' .* got 10\.0"),
        (dict(patch_size='whole'), "'image' or one of .* but got 'whole'$"),
        (dict(patch_size=[10]), r'but got \[10\]$'),
        (dict(patch_size=None), 'but got None$'),
        (
            dict(patch_size='image'),
            "image_size is needed for patch_size='image', but got None",
        ),
        (
            dict(patch_size='image', image_size=3),
            'image_size must be .* >= 4, but got 3',
        ),
        (
            dict(patch_size=22, image_size=16),
            'got 22 for images of 16x16, nearest: 10, 14',
        ),
        (dict(image_size='32'), "image_size must be an integer, but got '32'"),
        (dict(allow_larger_patch=1), 'must be True or False, but got 1'),
        (dict(in_channels=0), 'in_channels must be .* >= 1, but got 0'),
        (dict(base_channels=1.5), 'base_channels .* integer, but got 1.5'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        PatchDiscriminator(**options)


def test_wrong_images():
    net = PatchDiscriminator(base_channels=2, patch_size=22)
    assert net(torch.zeros(2, 3, 22, 40)).shape == (2, 1, 2, 5)
    with pytest.raises(
        ValueError, match='got 22 for images of 40x21, nearest: 14, 18'
    ):
        net(torch.zeros(2, 3, 40, 21))
    for shape in ((2, 1, 32, 32), (3, 32, 32)):
        with pytest.raises(ValueError, match=r'\(N, 3, H, W\), but got'):
            net(torch.zeros(shape))
    net = PatchDiscriminator(base_channels=2, image_size=16)
    net(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match='of 16x16, but got 16x32'):
        net(torch.zeros(2, 3, 16, 32))


@pytest.mark.parametrize('patch_size', [1, 10, 'image'])
def test_copies_checkpoints_formats(patch_size, seed):
    def build():
        return PatchDiscriminator(
            base_channels=2, patch_size=patch_size, image_size=16
        ).double()

    net = build()
    images = torch.rand(3, 3, 16, 16).double()
    net(images).sum().backward()
    expected = net.eval()(images)
    torch.testing.assert_close(
        net(images[:1]), expected[:1], rtol=1e-10, atol=1e-12
    )
    loaded = build().eval()
    loaded.load_state_dict(net.state_dict())
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded]
    for other in copies:
        assert torch.equal(other(images), expected)
        assert other.receptive_field == net.receptive_field
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copies[0])
    assert any(isinstance(m, nn.SyncBatchNorm) for m in synced.layers)
    assert torch.equal(synced(images), expected)
    last = copies[1].to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        last(images.contiguous(memory_format=torch.channels_last)),
        expected,
        rtol=1e-10,
        atol=1e-12,
    )


def test_autocast(seed):
    net = PatchDiscriminator(base_channels=4)
    images = torch.rand(4, 3, 16, 16)
    expected = net(images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = net(images)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.05)
    logits.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_init_cfg_takes_effect():
    net = PatchDiscriminator(
        base_channels=2,
        init_cfg=dict(type='Constant', layer='Conv2d', val=3.0, bias=5.0),
    )
    net.init_weights()
    assert net.layers[0].weight.unique().item() == 3.0
    assert net.layers[0].bias.unique().item() == 5.0
