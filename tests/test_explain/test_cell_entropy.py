import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmkd_plugin.explain import (
    cell_energy,
    entropy_converged,
    entropy_flow,
    entropy_sgd,
)

UNIT = 0.5 * math.log(2 * math.pi * math.e)
FLOOR = math.log(1e-3) + UNIT
CAP = UNIT


def energies(count=3, grid=(4, 4), spread=1.0):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, *grid, dtype=torch.float64, generator=generator)
    return (spread * noise).exp()


def hot_cells(ratio, share):
    """Get 20 cells, some of which have more energy than the others."""
    energy = torch.ones(1, 4, 5, dtype=torch.float64)
    energy.view(-1)[: round(20 * share)] = ratio
    return energy


def gap(entropy):
    return (entropy.flatten()[-1] - entropy.flatten()[0]).item()


def euler(energy, lam, until, **other):
    """Follow the gradient of the loss in very small steps, in plain loops."""
    start, tau, low = (
        other.get(key, value)
        for key, value in (('start', 0.01), ('tau', 0.01), ('low', 1e-3))
    )
    flat, substeps = energy.flatten().tolist(), 400
    cells, total = len(flat), sum(flat)
    lr = 1e-4 * cells / 256 / substeps
    sigmas, turn = [start] * cells, None
    for step in range(round(until * substeps)):
        if step == 60 * substeps:
            lam, turn = 1.5 * lam, step
        sigmas = [
            max(
                low,
                s - lr * (2 * a * s / (tau**2 * total) - lam / cells / s),
            )
            for s, a in zip(sigmas, flat, strict=True)
        ]
    assert (turn is not None) == (until > 60)
    found = torch.tensor(sigmas, dtype=torch.float64).log() + UNIT
    return found.view_as(energy)


def linear(grid=(2, 2), side=4, length=6):
    """Get a linear network, its energies, and images for it."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(
        length, 1, side, side, dtype=torch.float64, generator=generator
    )
    scales = torch.linspace(0.7, 1.6, grid[0] * grid[1]).double().view(grid)
    cell = side // grid[0]
    weight *= scales.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    images = torch.randn(
        2, 1, side, side, dtype=torch.float64, generator=generator
    )

    def feature_fn(x):
        return x.flatten(1) @ weight.flatten(1).t()

    shape = (length, grid[0], cell, grid[1], cell)
    energy = weight.view(shape).square().sum((0, 2, 4)) / length
    return feature_fn, images, energy.expand(2, *grid)


# The flow.


def test_uniform_energy_is_read_at_the_known_time():
    found = entropy_flow(torch.full((2, 16, 16), 3.0))
    # e^(-t/64) = (3.5 - y) / 2.5 with y of the target.
    y = math.exp(2 * (-2.8 - UNIT)) / 1e-4
    time = -64 * math.log((3.5 - y) / 2.5)
    assert time == pytest.approx(40.2, abs=0.05)
    assert_close(found.iteration, torch.full((2,), time).double())
    assert_close(found.entropy, torch.full((2, 16, 16), -2.8))
    assert found.reached.all() and found.has_energy.all()


@pytest.mark.parametrize(
    ('ratio', 'share', 'lam', 'expected'),
    [
        (2, 0.1, 7, 0.158),
        (3, 0.1, 7, 0.277),
        (5, 0.1, 7, 0.438),
        (2.32, 0.1, 7, 0.2),
        (2.01, 0.1, 6, 0.2),
        (3.47, 0.5, 7, 0.2),
        (2.52, 0.5, 6, 0.2),
    ],
)
def test_gap_of_hot_cells(ratio, share, lam, expected):
    # The numbers of the method's own analysis.
    found = entropy_flow(hot_cells(ratio, share), lam=lam)
    assert gap(found.entropy) == pytest.approx(expected, abs=2e-3)
    assert found.entropy.mean().item() == pytest.approx(-2.8, abs=1e-9)


def test_flow_is_gradient_descent_with_small_steps():
    energy = energies(1)
    found = entropy_flow(energy)
    until = found.iteration.item()
    assert 20 < until < 60
    assert_close(found.entropy, euler(energy, 7, until), rtol=0, atol=1e-3)
    assert found.entropy.std() > 0.1
    # To the end of the boosted part, with a cell that is not used.
    energy[0, 0, 0] = 0
    found = entropy_flow(energy, target=-1.0)
    assert found.iteration.item() == 80 and not found.reached.item()
    assert_close(found.entropy, euler(energy, 7, 80), rtol=0, atol=1e-3)


def test_cell_without_energy_grows_as_a_root():
    energy = energies(1, spread=0.3)
    energy[0, 1, 2] = 0
    found = entropy_flow(energy)
    time = found.iteration.item()
    expected = math.log(0.01) + UNIT + 0.5 * math.log(1 + 7 * time / 128)
    assert found.entropy[0, 1, 2].item() == pytest.approx(expected)
    assert found.entropy[0, 1, 2] == found.entropy.max()


def test_floor_and_cap_hold_on_the_way():
    energy = hot_cells(500.0, 0.05)
    found = entropy_flow(energy, sigma_min=0.008)
    floor = math.log(0.008) + UNIT
    expected = euler(energy, 7, found.iteration.item(), low=0.008)
    assert found.entropy.min().item() == pytest.approx(floor)
    assert_close(found.entropy, expected, rtol=0, atol=1e-3)
    found = entropy_flow(energy, sigma_max=0.0101, target=-1.0)
    cap = math.log(0.0101) + UNIT
    assert found.entropy.max().item() == pytest.approx(cap)


def test_scale_at_the_start_is_not_that_of_the_reference():
    energy = energies(1)
    found = entropy_flow(energy, sigma_start=0.02, sigma_reference=0.03)
    expected = euler(energy, 7, found.iteration.item(), start=0.02, tau=0.03)
    assert_close(found.entropy, expected, rtol=0, atol=1e-3)
    last = entropy_flow(
        energy, sigma_start=0.02, sigma_reference=0.03, keep='last'
    )
    assert (last.entropy - found.entropy).abs().max() > 0.01


def test_released_schedule():
    energy = energies(1)
    low = entropy_flow(energy, target=-2.9, keep='last')
    high = entropy_flow(energy, target=-1.0, keep='last')
    assert low.iteration.item() == 60 and high.iteration.item() == 80
    assert low.reached.item() and not high.reached.item()
    assert_close(high.entropy, euler(energy, 7, 80), rtol=0, atol=1e-3)
    # A target between the ends of both parts is met in the second.
    between = (low.entropy.mean() + high.entropy.mean()).item() / 2
    found = entropy_flow(energy, target=between)
    assert found.reached.item() and 60 < found.iteration.item() < 80
    assert found.entropy.mean().item() == pytest.approx(between)
    # One below the start is not met, the start is nearest.
    start = entropy_flow(energy, target=-3.5)
    assert start.iteration.item() == 0 and not start.reached.item()


def test_nothing_behind_the_end_is_taken():
    # With so low a weight the entropy falls, and is above the target from
    # the start: there are no extra iterations, in which it would be met.
    energy = torch.ones(1, 4, 4, dtype=torch.float64)
    y = 0.25 + 0.75 * math.exp(-70 / 64)
    target = math.log(0.01) + UNIT + 0.5 * math.log(y)
    found = entropy_flow(energy, lam=0.5, target=target)
    assert found.iteration.item() == 60 and not found.reached.item()
    found = entropy_flow(energy, lam=0.5, target=target, iterations=80)
    assert found.iteration.item() == pytest.approx(70)
    assert found.reached.item()


def test_path_does_not_depend_on_the_grid():
    energy = energies(1)
    fine = energy.repeat_interleave(2, 1).repeat_interleave(2, 2)
    coarse = entropy_flow(energy)
    found = entropy_flow(fine)
    assert_close(found.iteration, coarse.iteration)
    assert_close(found.entropy[:, ::2, ::2], coarse.entropy)
    # Without the scaling, the coarse grid is 16 times as fast.
    plain = entropy_flow(energy, lr_cells=None)
    assert_close(plain.iteration * 16, coarse.iteration)


def test_images_do_not_mix():
    energy = energies(3)
    energy[1] = 0
    together = entropy_flow(energy)
    for n in (0, 2):
        alone = entropy_flow(energy[n : n + 1])
        assert_close(together.entropy[n], alone.entropy[0])
    assert together.has_energy.tolist() == [True, False, True]
    assert together.reached.tolist() == [True, False, True]
    assert together.entropy[1].isnan().all()


# The optimum.


def test_optimum_is_the_closed_form():
    energy = energies(2)
    found = entropy_converged(energy, target=None, lam=6.0)
    norm = 1e-4 * energy.sum((1, 2), keepdim=True)
    beta = 6.0 / 16
    expected = 0.5 * (math.pi * math.e * beta * norm / energy).log()
    assert_close(found.entropy, expected, rtol=1e-12, atol=0)
    assert found.reached.all() and found.iteration is None
    # There the gradient of the loss is zero.
    sigma = (found.entropy - UNIT).exp()
    slope = 2 * energy * sigma / norm - beta / sigma
    assert_close(slope * sigma, torch.zeros_like(sigma), rtol=0, atol=1e-12)


def test_matched_optimum_is_the_closed_form():
    energy = energies(2)
    found = entropy_converged(energy, target=-3.0)
    half = energy.log() / 2
    expected = -3.0 + half.mean((1, 2), keepdim=True) - half
    assert_close(found.entropy, expected, rtol=1e-12, atol=0)
    assert found.reached.all()
    assert gap(
        entropy_converged(hot_cells(5.0, 0.1)).entropy
    ) == pytest.approx(math.log(5) / 2)


def test_flow_goes_to_the_optimum():
    energy = energies(2, spread=0.5)
    long = entropy_flow(energy, keep='last', target=-4.0, iterations=9000)
    found = entropy_converged(energy, target=None)
    assert_close(long.entropy, found.entropy)


def test_cells_at_the_bounds_are_made_up_for():
    energy = energies(2)
    energy[:, 0, :2] = 0
    energy[:, 3, 3] = 1e9
    found = entropy_converged(energy)
    assert found.reached.all()
    assert_close(found.entropy[:, 0, :2], torch.full((2, 2), CAP).double())
    assert_close(found.entropy[:, 3, 3], torch.full((2,), FLOOR).double())
    assert_close(found.entropy.mean((1, 2)), torch.full((2,), -2.8).double())
    inside = (found.entropy > FLOOR + 1e-9) & (found.entropy < CAP - 1e-9)
    level = (found.entropy + energy.log() / 2)[0][inside[0]]
    assert inside.sum() == 26
    assert_close(level, level[:1].expand_as(level))


def test_half_blind_network_cannot_meet_the_target_at_the_optimum():
    energy = energies(1)
    energy[..., 2:] = 0
    found = entropy_converged(energy)
    assert not found.reached.item() and found.has_energy.item()
    assert_close(found.entropy[..., 2:], torch.full((1, 4, 2), CAP).double())
    assert_close(found.entropy[..., :2], torch.full((1, 4, 2), FLOOR).double())
    # The flow has no such trouble.
    flow = entropy_flow(energy)
    assert flow.reached.item()
    assert flow.entropy[..., 2:].min() > flow.entropy[..., :2].max()


def test_without_energy_nothing_is_said():
    energy = energies(2)
    energy[0] = 0
    for target in (None, -2.8):
        found = entropy_converged(energy, target=target)
        assert found.has_energy.tolist() == [False, True]
        assert found.reached.tolist() == [False, True]
        assert found.entropy[0].isnan().all()
        assert found.entropy[1].isfinite().all()


# The Monte-Carlo procedure.


def test_sgd_goes_to_the_closed_form_of_a_linear_network():
    feature_fn, images, energy = linear()
    found = entropy_sgd(
        feature_fn,
        images,
        (2, 2),
        keep='last',
        iterations=400,
        extra_iterations=0,
        samples=512,
        relu=False,
        generator=torch.Generator().manual_seed(0),
    )
    expected = entropy_converged(energy, target=None)
    error = found.entropy - expected.entropy
    assert error.square().mean().sqrt() < 0.05
    assert expected.entropy[0].std() > 0.2
    assert found.iteration.tolist() == [400, 400]


@pytest.mark.parametrize('antithetic', [False, True])
def test_sgd_meets_the_flow(antithetic):
    feature_fn, images, energy = linear((4, 4), side=8)
    found = entropy_sgd(
        feature_fn,
        images,
        (4, 4),
        relu=False,
        antithetic=antithetic,
        generator=torch.Generator().manual_seed(0),
    )
    expected = entropy_flow(energy)
    error = found.entropy - expected.entropy
    assert error.square().mean().sqrt() < 0.05
    stacked = torch.stack([found.entropy[0], expected.entropy[0]])
    assert torch.corrcoef(stacked.flatten(1))[0, 1] > 0.95
    assert ((found.iteration - expected.iteration).abs() < 5).all()
    assert found.reached.all()


@pytest.mark.parametrize(
    'options',
    [
        dict(target=-1.0),
        dict(target=-1.0, boost=3.0, extra_iterations=10),
        dict(sigma_start=0.02, sigma_reference=0.03),
        dict(sigma_start=0.02, sigma_reference=0.03, keep='last'),
        dict(lam=5.0, lr=2e-4),
        dict(lr_cells=128, keep='last'),
        dict(sigma_min=0.0099, lam=3.0, target=-3.1),
        dict(sigma_max=0.015),
    ],
    ids=str,
)
def test_constants_mean_the_same_to_sgd_and_flow(options):
    feature_fn, images, energy = linear()
    found = entropy_sgd(
        feature_fn,
        images[:1],
        (2, 2),
        relu=False,
        samples=512,
        generator=torch.Generator().manual_seed(0),
        **options,
    )
    expected = entropy_flow(energy[:1], **options)
    assert found.reached.equal(expected.reached)
    error = found.entropy - expected.entropy
    assert error.square().mean().sqrt() < 0.03
    default = entropy_flow(energy[:1])
    assert (default.entropy - expected.entropy).abs().max() > 0.06


def test_sgd_passes_and_noise_do_not_depend_on_memory():
    feature_fn, images, _ = linear()
    sizes = []

    def counting(x):
        sizes.append(len(x))
        return feature_fn(x)

    def run(memory):
        sizes.clear()
        return entropy_sgd(
            counting,
            images,
            (2, 2),
            samples=8,
            iterations=5,
            extra_iterations=2,
            memory=memory,
            generator=torch.Generator().manual_seed(0),
        )

    whole = run(1 << 30)
    assert max(sizes) == 16
    parts = run(4096)
    assert 1 < max(sizes) < 8
    assert_close(parts.entropy, whole.entropy)
    with pytest.raises(ValueError, match=r'memory must be at least \d+'):
        run(1024)


def test_sgd_schedule_and_flags():
    feature_fn, images, _ = linear()
    images[1] = -images[0]

    # Only what is positive in the mean is seen: the second image is not.
    def one_sided(x):
        seen = (x.mean((1, 2, 3)) * images[0].mean() > 0).to(x)
        return feature_fn(x) * seen[:, None]

    images *= 10
    options = dict(
        samples=16,
        relu=False,
        generator=torch.Generator().manual_seed(0),
    )
    found = entropy_sgd(one_sided, images, (2, 2), **options)
    assert found.has_energy.tolist() == [True, False]
    assert found.reached.tolist() == [True, False]
    assert found.entropy[1].isnan().all()
    assert found.entropy[0].mean().item() == pytest.approx(-2.8, abs=0.02)
    last = entropy_sgd(one_sided, images, (2, 2), keep='last', **options)
    assert last.iteration[0].item() == 60
    high = entropy_sgd(one_sided, images, (2, 2), target=-1.0, **options)
    assert high.iteration[0].item() == 80 and not high.reached[0]
    assert high.entropy[0].mean() > last.entropy[0].mean()


def test_rounding_is_no_energy():
    images = torch.rand(2, 1, 4, 4)

    # A pass of another size rounds otherwise.
    def feature_fn(x):
        rounding = 1e-7 if len(x) > 2 else 0.0
        return 0 * x.flatten(1) + torch.linspace(1, 2, 16) + rounding

    found = entropy_sgd(feature_fn, images, (2, 2), samples=8)
    assert not found.has_energy.any() and found.entropy.isnan().all()
    assert not cell_energy(feature_fn, images, (2, 2)).any()


def test_antithetic_noise_comes_in_pairs():
    seen = []

    def watching(x):
        seen.append(x.detach().clone())
        return x.flatten(1)

    entropy_sgd(
        watching,
        torch.zeros(1, 1, 2, 2),
        (1, 1),
        samples=6,
        antithetic=True,
        iterations=1,
        extra_iterations=0,
    )
    noisy = [x for x in seen if len(x) == 6]
    assert len(noisy) == 2
    for x in noisy:
        assert_close(x[3:], -x[:3])
        assert len(x.unique()) == 24


# All of them.


def test_invariances():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    body = body.double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    length = body(images)[0].numel()
    q = torch.linalg.qr(torch.randn(length, length, dtype=torch.float64)).Q
    order = torch.randperm(length)

    def flat(x):
        return body(x).flatten(1)

    def entropy(feature_fn, relu, method):
        energy = cell_energy(feature_fn, images, (4, 4), relu=relu)
        return method(energy).entropy

    for method in (entropy_flow, entropy_converged):
        plain = entropy(flat, False, method)
        rectified = entropy(flat, True, method)
        assert (plain - rectified).abs().max() > 1e-3
        turned = entropy(lambda x: 5 * flat(x) @ q, False, method)
        assert_close(turned, plain, rtol=0, atol=1e-9)
        mixed = entropy(lambda x: 0.1 * flat(x)[:, order], True, method)
        assert_close(mixed, rectified, rtol=0, atol=1e-9)
    # The first layer is made stronger, the second weaker by as much.
    before = entropy(flat, True, entropy_flow)
    with torch.no_grad():
        body[0].weight *= 7
        body[0].bias *= 7
        body[2].weight /= 7
    after = entropy(flat, True, entropy_flow)
    assert_close(after, before, rtol=0, atol=1e-9)


def test_half_blind_network_in_all_methods():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten())
    images = torch.randn(2, 1, 8, 8)
    mask = (torch.arange(8) < 4).float()

    def feature_fn(x):
        return net(x * mask)

    energy = cell_energy(feature_fn, images, (2, 2))
    maps = [
        entropy_flow(energy),
        entropy_sgd(feature_fn, images, (2, 2), samples=32),
    ]
    for found in maps:
        assert found.entropy.dtype == torch.float32
        assert (found.entropy[..., 1] - found.entropy[..., 0] > 0.1).all()
    error = maps[0].entropy - maps[1].entropy
    assert error.abs().max() < 0.1


def test_bad_energy():
    energy = energies(2)
    for method in (entropy_flow, entropy_converged):
        with pytest.raises(ValueError, match=r'\(N, h, w\)'):
            method(energy[0])
        with pytest.raises(ValueError, match='energy must be a tensor'):
            method(energy.tolist())
        for value in (-1.0, math.nan, math.inf):
            bad = energy.clone()
            bad[1, 0, 0] = value
            with pytest.raises(ValueError, match=f'but got {value}'):
                method(bad)
        assert len(method(energy[:0]).entropy) == 0


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('target', math.nan),
        ('lam', 0.0),
        ('lr', -1e-4),
        ('lr_cells', 0),
        ('iterations', 0),
        ('extra_iterations', -1),
        ('boost', 0),
        ('keep', 'best'),
        ('sigma_start', 1e-4),
        ('sigma_start', 2.0),
        ('sigma_min', 0.0),
        ('sigma_max', 1e-3),
        ('sigma_reference', 0),
    ],
)
def test_bad_constants(option, value):
    feature_fn, images, energy = linear()
    with pytest.raises(ValueError, match=f'^{option} must'):
        entropy_flow(energy, **{option: value})
    with pytest.raises(ValueError, match=f'^{option} must'):
        entropy_sgd(feature_fn, images, (2, 2), **{option: value})
    if option in ('lam', 'sigma_min', 'sigma_max', 'sigma_reference'):
        with pytest.raises(ValueError, match=f'^{option} must'):
            entropy_converged(energy, **{option: value})


def test_bad_input_of_sgd():
    feature_fn, images, _ = linear()
    with pytest.raises(ValueError, match='samples must be even'):
        entropy_sgd(feature_fn, images, (2, 2), samples=3, antithetic=True)
    with pytest.raises(ValueError, match='samples must be'):
        entropy_sgd(feature_fn, images, (2, 2), samples=0)
    with pytest.raises(ValueError, match='3 rows do not divide 4'):
        entropy_sgd(feature_fn, images, (3, 2))
    with pytest.raises(ValueError, match=r'but got torch\.bfloat16'):
        entropy_sgd(feature_fn, images.bfloat16(), (2, 2))
    with pytest.raises(ValueError, match='no gradient leads back'):
        entropy_sgd(lambda x: feature_fn(x).detach(), images, (2, 2))
