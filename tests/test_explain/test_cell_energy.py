import itertools
import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from mmkd_plugin.explain import cell_energy
from mmkd_plugin.explain.cell_energy import measure_pass


def network(channels=2, dtype=torch.float64):
    """Get a small network whose feature has 3 x 4 x 4 = 48 numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(4, 3, 2, stride=2),
    ).to(dtype)


def pictures(count=3, channels=2, side=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(
        count, channels, side, side, dtype=dtype, generator=generator
    )


def loop_energy(feature_fn, images, grid):
    """Sum the squares of the whole Jacobian, cell by cell."""
    energy = images.new_zeros(len(images), *grid)
    cell = [size // n for size, n in zip(images.shape[2:], grid, strict=True)]
    for n, image in enumerate(images):
        whole = jacobian(lambda x: feature_fn(x[None]).flatten(), image)
        for i, j in itertools.product(*map(range, grid)):
            part = whole[
                :,
                :,
                i * cell[0] : (i + 1) * cell[0],
                j * cell[1] : (j + 1) * cell[1],
            ]
            energy[n, i, j] = part.square().sum() / len(whole)
    return energy


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return self.inner(images)


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('probes', [None, 48, 1000])
def test_all_probes_give_the_whole_jacobian(relu, probes):
    net, images = network(), pictures()
    rectified = nn.Sequential(net, nn.ReLU()) if relu else net
    expected = loop_energy(rectified, images, (2, 4))
    assert expected.std() > 0.1 * expected.mean()
    found = cell_energy(net, images, (2, 4), probes, relu=relu)
    assert_close(found, expected, rtol=1e-12, atol=0)


def test_relu_on_a_rectified_feature_changes_nothing():
    net, images = nn.Sequential(network(), nn.ReLU()), pictures()
    once = cell_energy(net, images, (2, 2), relu=False)
    assert_close(cell_energy(net, images, (2, 2)), once, rtol=0, atol=0)


def test_linear_network_has_the_energy_of_its_weights():
    weight = torch.randn(5, 2 * 8 * 8, dtype=torch.float64)
    cells = weight.view(5, 2, 2, 4, 2, 4).square().sum((0, 1, 3, 5)) / 5
    found = cell_energy(
        lambda x: x.flatten(1) @ weight.t(), pictures(), (2, 2), relu=False
    )
    assert_close(found, cells.expand(3, 2, 2), rtol=1e-12, atol=0)


def test_fewer_probes_are_unbiased_and_near():
    net, images = network(), pictures(1)
    exact = cell_energy(net, images, (2, 2), relu=False)
    generator = torch.Generator().manual_seed(5)
    draws = torch.stack(
        [
            cell_energy(
                net, images, (2, 2), 12, relu=False, generator=generator
            )
            for _ in range(100)
        ]
    )
    spread = draws.std(0) / exact
    assert (spread > 0.005).all() and (spread < 0.3).all()
    bound = 4 * draws.std(0) / 10
    assert ((draws.mean(0) - exact).abs() < bound).all()


def test_probes_stand_at_right_angles():
    # Of an isotropic map, every set of orthonormal probes sees the same.
    q = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64)).Q
    images = pictures(2, channels=1)
    found = cell_energy(
        lambda x: x.flatten(1) @ q, images, (1, 1), 7, relu=False
    )
    assert_close(found, torch.ones_like(found), rtol=1e-12, atol=0)


def test_generator_decides_the_probes():
    net, images = network(), pictures()
    first, again, other = (
        cell_energy(
            net,
            images,
            (2, 2),
            6,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    )
    assert_close(first, again, rtol=0, atol=0)
    assert (first != other).all()


def test_ignored_half_has_no_energy():
    net, images = network(), pictures()
    mask = torch.ones(8, 8, dtype=torch.float64)
    mask[:, 4:] = 0
    for probes in (None, 8):
        found = cell_energy(lambda x: net(x * mask), images, (4, 4), probes)
        assert (found[..., 2:] == 0).all()
        assert (found[..., :2] > 0).all()


@pytest.mark.parametrize('probes', [None, 8])
def test_memory_bounds_the_passes_and_not_the_values(probes):
    net, images = Counting(network()), pictures(9)

    def run(memory):
        net.sizes.clear()
        generator = torch.Generator().manual_seed(0)
        found = cell_energy(
            net, images, (2, 2), probes, memory=memory, generator=generator
        )
        return found, net.sizes[2:]

    cost = measure_pass(net, images, relu=True)
    assert cost.length == 48
    # 8 probes of 48 numbers three times over, or a row of the unit matrix.
    besides = 48 * 8 * (3 * 8 if probes else 1)
    whole, sizes = run(1 << 30)
    assert sizes == [9]
    parts, sizes = run(2 * cost.bytes_per_image + besides)
    assert sizes == [2, 2, 2, 2, 1]
    assert_close(parts, whole, rtol=1e-12, atol=0)
    with pytest.raises(
        ValueError, match=f'at least {cost.bytes_per_image + besides} bytes'
    ):
        run(cost.bytes_per_image + besides - 1)


def test_cost_of_an_image_counts_what_it_keeps():
    net, images = network(), pictures()
    cost = measure_pass(net, images, relu=False)
    # Kept in float64: the image, the map before and that after softplus;
    # weights belong to no image. Four times the largest for what passes by,
    # 0.7 of all that for what a process takes beyond its tensors.
    kept = (2 * 64 + 4 * 64 + 4 * 64) * 8
    assert cost.bytes_per_image == math.ceil(1.7 * (kept + 4 * 4 * 64 * 8))


def test_dtype_and_grad_modes():
    images = pictures(dtype=torch.float32)
    net = network(dtype=torch.float32)
    expected = cell_energy(net.double(), images.double(), (2, 2))
    net.float()
    found = cell_energy(net, images, (2, 2))
    assert found.dtype == torch.float32 and not found.requires_grad
    assert_close(found.double(), expected, rtol=1e-5, atol=0)
    with torch.no_grad():
        assert_close(cell_energy(net, images, (2, 2)), found)
    with torch.inference_mode():
        assert_close(cell_energy(net, images + 0, (2, 2)), found)
    half = cell_energy(net.bfloat16(), images.bfloat16(), (2, 2))
    assert half.dtype == torch.float32
    assert_close(half.double(), expected, rtol=0.1, atol=0)
    assert all(p.grad is None for p in net.parameters())
    assert not images.requires_grad


def test_in_place_relu_after_batch_norm():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
    )
    net = net.double().eval()
    expected = loop_energy(net, pictures(), (2, 2))
    assert_close(cell_energy(net, pictures(), (2, 2)), expected)


def test_grid_must_divide():
    with pytest.raises(ValueError, match=r'3 rows do not divide 8.*: 2, 4, 1'):
        cell_energy(network(), pictures(), (3, 2))
    with pytest.raises(ValueError, match='5 columns do not divide 8 pixels'):
        cell_energy(network(), pictures(), (2, 5))
    for grid in (4, (2,), (0, 2), (2.0, 2), '22'):
        with pytest.raises(ValueError, match='two positive integers'):
            cell_energy(network(), pictures(), grid)


def test_bad_input():
    net, images = network(), pictures()
    with pytest.raises(ValueError, match='images must be floating point'):
        cell_energy(net, images[0], (2, 2))
    with pytest.raises(ValueError, match='images must be floating point'):
        cell_energy(net, images.long(), (2, 2))
    with pytest.raises(ValueError, match='images must be floating point'):
        cell_energy(net, images[:0], (2, 2))
    with pytest.raises(ValueError, match='probes must be'):
        cell_energy(net, images, (2, 2), 0)
    with pytest.raises(ValueError, match='relu must be True or False'):
        cell_energy(net, images, (2, 2), relu=1)
    with pytest.raises(ValueError, match='memory must be'):
        cell_energy(net, images, (2, 2), memory=-1)
    with pytest.raises(ValueError, match='no gradient leads back'):
        cell_energy(lambda x: net(x).detach(), images, (2, 2))
    with pytest.raises(ValueError, match=r'got a tuple'):
        cell_energy(lambda x: (net(x),), images, (2, 2))
    with pytest.raises(ValueError, match=r'shape \(1, \.\.\.\).*\(\)'):
        cell_energy(lambda x: net(x).sum(), images, (2, 2))


def test_network_in_training_mode_is_refused():
    torch.manual_seed(0)
    mixing = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).double()
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    for net in (mixing, dropping):
        with pytest.raises(ValueError, match='in eval mode'):
            cell_energy(net.train(), pictures(), (2, 2))
        cell_energy(net.eval(), pictures(), (2, 2))
