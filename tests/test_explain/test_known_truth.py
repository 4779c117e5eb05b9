"""What the whole chain must say of networks of which the truth is known.

From :func:`cell_energy`, or images, through entropies to knowledge points, on
mmpretrain's residual network. The single functions have theirs next to this.
"""

import copy

import pytest
import torch
from torch.testing import assert_close
from toys import teacher

from mmkd_plugin.explain import (
    LayerFeature,
    cell_energy,
    entropy_converged,
    entropy_flow,
    entropy_sgd,
    foreground_grid,
    knowledge_points,
)

GRID = (8, 8)
SIDE = 16
LAYER = 'backbone.layer2'


def network():
    """Get a network whose feature has 8 x 8 x 8 = 512 numbers."""
    return teacher(seed=0, width=4, stages=2).double()


def pictures(count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(
        count, 3, SIDE, SIDE, dtype=torch.float64, generator=generator
    )


def seed():
    return torch.Generator().manual_seed(2)


def flow(feature_fn, images, **options):
    energy = cell_energy(feature_fn, images, GRID, generator=seed(), **options)
    return entropy_flow(energy)


def converged(feature_fn, images, **options):
    energy = cell_energy(feature_fn, images, GRID, generator=seed(), **options)
    return entropy_converged(energy, target=None)


def sgd(feature_fn, images, **options):
    return entropy_sgd(
        feature_fn, images, GRID, samples=16, generator=seed(), **options
    )


def seen_through(mask):
    feature = LayerFeature(network(), LAYER)
    return lambda images: feature(images * mask)


@pytest.mark.parametrize('method', [flow, sgd, converged])
def test_no_points_where_nothing_is_looked_at(method):
    mask = torch.ones(SIDE, SIDE, dtype=torch.float64)
    mask[:, SIDE // 2 :] = 0
    half_blind, images = seen_through(mask), pictures()
    # The foreground is on both sides.
    objects = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    objects[4:12, 4:12] = True
    foreground = foreground_grid(objects, GRID, (SIDE, SIDE)).expand(3, 8, 8)

    energy = cell_energy(half_blind, images, GRID)
    assert (energy[..., 4:] == 0).all() and (energy[..., :4] > 0).all()
    found = method(half_blind, images)
    assert found.has_energy.all()
    for reference in ('background_dataset', 'image'):
        points = knowledge_points(
            found.entropy, foreground, reference=reference
        )
        left, right = (
            points.foreground_points | points.background_points
        ).split(4, dim=-1)
        assert not right.any()
        assert (left.sum((1, 2)) > 8).all()


@pytest.mark.parametrize('method', [flow, sgd])
def test_who_sees_the_object_alone_has_lambda_one(method):
    # An L: 20 of 64 cells.
    objects = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    objects[2:14, 2:6] = True
    objects[10:14, 6:14] = True
    feature_fn, images = seen_through(objects.double()), pictures()
    found = method(feature_fn, images)
    foreground = foreground_grid(objects, GRID, (SIDE, SIDE)).expand(3, 8, 8)
    assert foreground[0].sum() == 20
    points = knowledge_points(found.entropy, foreground)
    assert points.n_bg.tolist() == [0, 0, 0]
    assert (points.n_fg >= 15).all()
    assert points.lambda_.tolist() == [1, 1, 1]
    assert points.mean_lambda.item() == 1
    # One that also looks at 4 cells beside it.
    objects[0:4, 12:16] = True
    found = method(seen_through(objects.double()), images)
    points = knowledge_points(found.entropy, foreground)
    assert (points.n_bg >= 2).all() and (points.lambda_ < 0.95).all()
    assert points.n_bg.equal(points.background_points[:, :2, 6:].sum((1, 2)))


def rescaled(net):
    """Make every block stronger before a ReLU and weaker after it."""
    net = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        # The stem by 7, and the statistics that its output is compared with.
        norm = net.backbone.bn1
        net.backbone.conv1.weight *= 7
        norm.running_mean *= 7
        norm.running_var.add_(norm.eps).mul_(49).sub_(norm.eps)
        for stage in (net.backbone.layer1, net.backbone.layer2):
            for block in stage:
                scale = torch.rand(
                    len(block.bn1.weight),
                    dtype=torch.float64,
                    generator=generator,
                )
                scale = 0.1 + 5 * scale
                block.bn1.weight *= scale
                block.bn1.bias *= scale
                block.conv2.weight /= scale[:, None, None]
    return net


@pytest.mark.parametrize('method', [flow, sgd, converged])
def test_rescaled_layers_say_the_same(method):
    images = pictures(2)
    net = network()
    changed = rescaled(net)
    assert not net.backbone.layer2[1].conv2.weight.equal(
        changed.backbone.layer2[1].conv2.weight
    )
    before = LayerFeature(net, LAYER)
    after = LayerFeature(changed, LAYER)
    a, b = (
        method(before, images),
        method(lambda x: 20 * after(x), images),
    )
    assert_close(b.entropy, a.entropy, rtol=0, atol=1e-9)
    assert a.entropy.std() > 0.05


def test_rotated_and_permuted_features_say_the_same():
    images = pictures(2)
    # Before the last ReLU, so that no direction is a special one.
    layer = LayerFeature(network(), 'backbone.layer2.1.bn2')
    length = layer(images)[0].numel()
    generator = torch.Generator().manual_seed(4)
    q = torch.linalg.qr(
        torch.randn(length, length, dtype=torch.float64, generator=generator)
    ).Q
    order = torch.randperm(length, generator=generator)

    def energy(change, relu):
        # All probes: the energies themselves, not their estimates.
        found = cell_energy(
            lambda x: change(layer(x).flatten(1)),
            images,
            GRID,
            length,
            relu=relu,
        )
        return found / found.mean((1, 2), keepdim=True), found

    plain, one = energy(lambda f: f, relu=False)
    turned, strong = energy(lambda f: 5 * f @ q, relu=False)
    assert_close(turned, plain, rtol=1e-9, atol=0)
    assert_close(strong, 25 * one, rtol=1e-9, atol=0)
    assert_close(
        entropy_flow(strong).entropy,
        entropy_flow(one).entropy,
        rtol=0,
        atol=1e-9,
    )
    rectified, _ = energy(lambda f: f, relu=True)
    permuted, _ = energy(lambda f: f[:, order], relu=True)
    assert_close(permuted, rectified, rtol=1e-9, atol=0)
    # Through a ReLU a rotation does matter.
    broken, _ = energy(lambda f: f @ q, relu=True)
    assert (broken - rectified).abs().max() > 0.05


@pytest.mark.parametrize('method', [flow, sgd])
def test_another_normalisation_says_something_else(method):
    images = pictures(2)

    def entropy(*std):
        # The same function of the pixels, which are divided otherwise.
        std = torch.tensor(std, dtype=torch.float64).view(3, 1, 1)
        net = network()
        with torch.no_grad():
            net.backbone.conv1.weight *= std
        feature_fn = LayerFeature(net, LAYER)
        outputs.append(feature_fn(images / std))
        return method(feature_fn, images / std).entropy

    outputs = []
    plain, channels, both = (
        entropy(1.0, 1.0, 1.0),
        entropy(0.2, 1.0, 5.0),
        entropy(3.0, 3.0, 3.0),
    )
    for output in outputs[1:]:
        assert_close(output, outputs[0])
    # The noise is as strong in all channels of the normalised image.
    assert (channels - plain).abs().max() > 0.05
    # One factor for all makes the noise stronger in grey levels. To first
    # order this cancels, so that only strong noise can tell.
    if method is flow:
        assert_close(both, plain, rtol=0, atol=1e-9)
    else:
        assert (both - plain).abs().max() > 1e-3
