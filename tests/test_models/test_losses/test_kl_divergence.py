import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from mmkd_plugin.models import ClassDropMask, KLDivergence


@pytest.fixture
def logits(seed):
    """Student's and teacher's, float64, of 6 samples and 10 classes."""
    return (
        torch.randn(6, 10, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 10, dtype=torch.float64),
    )


def value_and_gradient(preds_S, value):
    (gradient,) = torch.autograd.grad(value, preds_S)
    return value, gradient


def test_golden_vectors(golden):
    cases = golden('logit_losses')
    assert len(cases) >= 4
    for case in cases:
        preds_S = torch.tensor(case['kd__logits_s']).double()
        preds_T = torch.tensor(case['kd__logits_t']).double()
        preds_S.requires_grad_()
        loss = KLDivergence(tau=case['kd__T'].item())
        value, gradient = value_and_gradient(preds_S, loss(preds_S, preds_T))
        expected = torch.tensor(case['kd__loss_f64'])
        assert_close(value, expected, rtol=1e-9, atol=0)
        assert_close(
            gradient,
            torch.tensor(case['kd__grad_logits_s_f64']),
            rtol=1e-9,
            atol=1e-12,
        )
        value = loss(preds_S.float(), preds_T.float())
        assert_close(value.double(), expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_nothing_dropped_is_plain_distillation(logits, tau):
    preds_S, preds_T = logits
    loss, mask = KLDivergence(tau=tau), ClassDropMask(drop_ratio=0.0)
    plain = value_and_gradient(preds_S, loss(preds_S, preds_T))
    masked = value_and_gradient(preds_S, loss(preds_S, mask(preds_T)))
    assert_close(masked, plain, rtol=0, atol=0)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_all_but_one_dropped_is_cross_entropy(logits, tau):
    """T^2 times the cross entropy with the teacher's answer."""
    preds_S, preds_T = logits
    target = ClassDropMask(num_dropped=9)(preds_T)
    expected = tau**2 * cross_entropy(preds_S / tau, preds_T.argmax(dim=1))
    assert_close(
        value_and_gradient(preds_S, KLDivergence(tau=tau)(preds_S, target)),
        value_and_gradient(preds_S, expected),
    )


def test_all_but_one_dropped_on_both_sides_is_nothing(logits):
    preds_S, preds_T = logits
    mask = ClassDropMask(num_dropped=9)
    value, gradient = value_and_gradient(
        preds_S,
        KLDivergence(tau=4.0)(mask(preds_S, reference=preds_T), mask(preds_T)),
    )
    assert value == 0
    assert (gradient == 0).all()


def test_classes_dropped_on_both_sides_get_no_gradient(logits):
    preds_S, preds_T = logits
    mask = ClassDropMask(drop_ratio=0.3)
    target = mask(preds_T)
    _, gradient = value_and_gradient(
        preds_S,
        KLDivergence(tau=4.0)(mask(preds_S, reference=preds_T), target),
    )
    assert (gradient[target.isneginf()] == 0).all()
    assert (gradient[~target.isneginf()] != 0).all()


def test_student_that_is_the_masked_teacher(logits):
    _, preds_T = logits
    target = ClassDropMask(drop_ratio=0.5)(preds_T)
    assert KLDivergence(tau=4.0)(target, target) == 0
    # As near as a student with finite logits comes.
    nearly = target.masked_fill(target.isneginf(), -1e4).requires_grad_()
    value, gradient = value_and_gradient(
        nearly, KLDivergence(tau=4.0)(nearly, target)
    )
    assert value.abs() < 1e-12
    assert gradient.abs().max() < 1e-12


def test_only_the_differences_of_logits_matter(logits):
    preds_S, preds_T = logits
    shift = 7 * torch.arange(6.0, dtype=torch.float64)[:, None]
    loss = KLDivergence(tau=4.0)
    assert_close(loss(preds_S + shift, preds_T - shift), loss(*logits))


def test_never_negative_and_zero_only_for_equals(logits):
    preds_S, preds_T = logits
    loss = KLDivergence(reduction='none')
    assert (loss(preds_S, preds_T) > 0).all()
    assert loss(preds_T, preds_T).abs().max() == 0


def test_half_precision_logits_may_be_masked(logits):
    preds_S, preds_T = (x.detach().half() for x in logits)
    target = ClassDropMask(drop_ratio=0.5)(preds_T)
    assert target.dtype == torch.float16
    preds_S.requires_grad_()
    value, gradient = value_and_gradient(
        preds_S, KLDivergence(tau=4.0)(preds_S, target)
    )
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_size_of_the_gradient_stays_over_temperatures(logits):
    """This is what the factor T^2 is for: at high T it is (p_S - p_T) T."""
    preds_S, preds_T = logits
    norms = []
    for tau in (50.0, 100.0):
        _, gradient = value_and_gradient(
            preds_S, KLDivergence(tau=tau)(preds_S, preds_T)
        )
        norms.append(gradient.norm())
    assert math.isclose(*norms, rel_tol=0.05)


def test_high_temperature_matches_centred_logits(logits):
    """Its gradient becomes the difference of the logits, over C and N."""
    preds_S, preds_T = logits
    preds_S = preds_S.detach().clone().requires_grad_()
    KLDivergence(tau=1e4)(preds_S, preds_T).backward()
    gap = preds_S.detach() - preds_T
    gap = gap - gap.mean(dim=1, keepdim=True)
    expected = gap / preds_S.numel()
    bound = 1e-3 * expected.abs().max().item()
    assert_close(preds_S.grad, expected, rtol=0, atol=bound)
