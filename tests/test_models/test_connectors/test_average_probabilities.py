"""The mean of several teachers, as one of them."""

import math

import pytest
import torch
from mmengine.registry import MODELS
from torch.testing import assert_close

from mmkd_plugin.models import AverageProbabilities, kl_divergence

TAU = 4.0


def teachers(count=3, classes=5, samples=4):
    generator = torch.Generator().manual_seed(3)
    return (
        2
        * torch.randn(
            count, samples, classes, generator=generator, dtype=torch.float64
        )
    ).unbind()


def student(classes=5, samples=4):
    generator = torch.Generator().manual_seed(4)
    made = torch.randn(
        samples, classes, generator=generator, dtype=torch.float64
    )
    return made.requires_grad_()


def average(logits, **options):
    names = [f'teacher{i}' for i in range(1, len(logits))]
    connector = AverageProbabilities(**options)
    return connector(logits[0], **dict(zip(names, logits[1:], strict=True)))


@pytest.mark.parametrize('weights', [None, [1, 3, 2]])
def test_gradient_is_that_of_the_averaged_divergences(weights):
    logits, preds = teachers(), student()
    mean = average(logits, tau=TAU, weights=weights)
    one = kl_divergence(preds, mean, TAU)
    (gradient,) = torch.autograd.grad(one, preds)
    shares = [w / sum(weights) for w in weights] if weights else [1 / 3] * 3
    several = sum(
        share * kl_divergence(preds, z, TAU)
        for share, z in zip(shares, logits, strict=True)
    )
    (expected,) = torch.autograd.grad(several, preds)
    assert_close(gradient, expected, rtol=0, atol=1e-15)
    assert gradient.abs().max() > 0.05
    # The values differ by how much the teachers do, which is no matter of
    # the student.
    other = torch.zeros_like(preds)
    gap = sum(
        share * kl_divergence(other, z, TAU)
        for share, z in zip(shares, logits, strict=True)
    ) - kl_divergence(other, mean, TAU)
    assert gap > 0.1
    assert_close(several - one, gap)


def test_the_mean_of_the_logits_has_another_gradient():
    logits, preds = teachers(), student()
    gradients = [
        torch.autograd.grad(kl_divergence(preds, target, TAU), preds)[0]
        for target in (average(logits, tau=TAU), sum(logits) / 3)
    ]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    'name', ['DISTLoss', 'DKDLoss', 'KLDivergence', 'NKDLoss']
)
def test_losses_see_the_mean_of_the_probabilities(name):
    """Whatever the teachers are that have this mean."""
    logits, preds = teachers(), student()
    mean = sum(z.div(TAU).softmax(1) for z in logits) / 3
    loss = MODELS.build(dict(type=name, tau=TAU))
    labels = {}
    if name in ('DKDLoss', 'NKDLoss'):
        labels = dict(gt_labels=torch.arange(4))
    found = loss(preds, average(logits, tau=TAU), **labels)
    assert_close(found, loss(preds, TAU * mean.log(), **labels))


def test_dropped_classes():
    logits = [z.clone() for z in teachers(count=2)]
    logits[0][0, 1] = -math.inf
    for z in logits:
        z[2, 3] = -math.inf
    mean = average(logits, tau=TAU)
    probs = mean.div(TAU).softmax(1)
    softened = [z.div(TAU).softmax(1) for z in logits]
    # Dropped by one, and by both.
    assert_close(probs[0, 1], softened[1][0, 1] / 2)
    assert mean[2, 3] == -math.inf
    assert mean.isneginf().sum() == 1
    assert_close(probs, sum(softened) / 2)
    preds = student()
    value = kl_divergence(preds, mean, TAU)
    value.backward()
    assert value.isfinite()
    assert preds.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_extreme_logits(dtype):
    """No probability of zero, where one is small in all teachers."""
    sure = 1e4 * torch.eye(3, dtype=dtype)
    mean = average([sure, sure], tau=1.0)
    assert mean.dtype == dtype
    assert mean.isfinite().all()
    assert_close(mean, sure - 1e4, rtol=1e-3, atol=1.0)
    mean = average([sure, sure.flip(0)], tau=1.0)
    assert_close(mean[0, 0].exp().item(), 0.5, rtol=1e-3, atol=0)
    assert_close(mean[0, 1].item(), -1e4, rtol=1e-3, atol=0)


def test_a_broken_teacher_shows():
    logits = [z.clone() for z in teachers()]
    logits[1][0, 0] = math.nan
    assert average(logits).isnan().any()
