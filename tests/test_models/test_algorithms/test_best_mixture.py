"""The convex problem of KDCL's linear target."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mmkd_plugin.models.algorithms.best_mixture import (
    best_mixture,
    minimise_on_simplex,
)


def problem(count, num, classes, scale, skill=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(
        count, num, classes, generator=generator, dtype=torch.float64
    )
    labels = torch.randint(0, classes, (num,), generator=generator)
    help_ = skill * torch.rand(count, 1, generator=generator).double()
    logits[:, torch.arange(num), labels] += help_
    return scale * logits, labels


def entropy(weights, logits, labels):
    return cross_entropy(torch.tensordot(weights, logits, 1), labels)


def gap(weights, logits, labels):
    """What could still be gained at most, of the largest gradient."""
    weights = weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        entropy(weights, logits, labels), weights
    )
    lost = (gradient @ weights - gradient.min()).item()
    return lost / (1.0 + gradient.abs().max().item())


@pytest.mark.parametrize('count', [2, 3, 5])
@pytest.mark.parametrize('scale', [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize('skill', [0.0, 3.0])
def test_optimality(count, scale, skill):
    for seed in range(5):
        logits, labels = problem(count, 20, 7, scale, skill, seed)
        weights = best_mixture(logits, labels)
        assert weights.min() >= 0
        assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)
        assert gap(weights, logits, labels) < 1e-9


def test_is_the_minimum_on_a_grid():
    logits, labels = problem(2, 30, 5, 2.0, skill=1.0, seed=3)
    weights = best_mixture(logits, labels)
    # Within the simplex, not in a corner.
    assert weights.min() > 0.05
    found = entropy(weights, logits, labels)
    grid = [
        entropy(torch.tensor([a, 1 - a]), logits, labels)
        for a in np.linspace(0, 1, 201)
    ]
    assert found <= min(grid)
    assert min(grid) - found < 1e-4
    # A corner, too, and an edge of three.
    logits, labels = problem(3, 30, 5, 2.0, skill=0.0, seed=2)
    logits[2] = -5 * logits[0]
    weights = best_mixture(logits, labels)
    assert (weights == 0).any()


def test_same_every_time_and_in_every_precision():
    logits, labels = problem(3, 16, 10, 2.0)
    one = best_mixture(logits, labels)
    assert torch.equal(one, best_mixture(logits, labels))
    single = best_mixture(logits.float(), labels)
    assert single.dtype == torch.float64
    assert torch.allclose(one, single, atol=1e-4)


def test_order_of_the_students_and_of_the_images():
    logits, labels = problem(3, 16, 10, 2.0, seed=1)
    weights = best_mixture(logits, labels)
    turned = best_mixture(logits[[2, 0, 1]], labels)
    assert torch.allclose(turned, weights[[2, 0, 1]], atol=1e-7)
    order = torch.randperm(16)
    mixed = best_mixture(logits[:, order], labels[order])
    assert torch.allclose(mixed, weights, atol=1e-9)


def test_students_that_answer_alike():
    logits, labels = problem(2, 8, 4, 1.0)
    same = logits[:1].repeat(3, 1, 1)
    assert torch.allclose(
        best_mixture(same, labels), torch.full((3,), 1 / 3).double()
    )
    # A third one that nearly is another.
    nearly = torch.cat([logits, logits[1:] + 1e-9])
    weights = best_mixture(nearly, labels)
    assert gap(weights, nearly, labels) < 1e-9
    two = best_mixture(logits, labels)
    assert weights[0].item() == pytest.approx(two[0].item(), abs=1e-6)


def test_no_images_and_one():
    empty = torch.zeros(2, 0, 3)
    weights = best_mixture(empty, torch.zeros(0, dtype=torch.long))
    assert weights.tolist() == [0.5, 0.5]
    logits = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    assert best_mixture(logits, torch.tensor([1])).tolist() == [1.0, 0.0]


def test_no_graph():
    logits, labels = problem(2, 8, 4, 1.0)
    assert not best_mixture(logits.requires_grad_(), labels).requires_grad


@pytest.mark.parametrize('count', [1, 2, 4, 7])
def test_quadratic_on_the_simplex(count):
    rng = np.random.default_rng(count)
    corners = 0
    for _ in range(50):
        root = rng.normal(size=(count, count))
        quadratic = root @ root.T + 1e-3 * np.eye(count)
        linear = 2 * rng.normal(size=count)
        point = minimise_on_simplex(quadratic, linear)
        assert point.min() >= 0
        assert point.sum() == pytest.approx(1.0)
        gradient = quadratic @ point + linear
        # Those in use have the lowest gradient, all the same.
        level = gradient.min()
        assert (gradient[point > 1e-9] < level + 1e-8).all()
        corners += (point == 0).any()
    assert count == 1 or corners > 0
