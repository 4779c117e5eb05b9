import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import KLDivergence, LogitStandardization


@pytest.fixture
def logits(seed):
    """Student's and teacher's, float64."""
    return (
        torch.randn(6, 10, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 10, dtype=torch.float64),
    )


def test_mean_and_deviation(logits):
    standard = LogitStandardization()(logits[1])
    assert_close(standard.mean(1), torch.zeros(6).double(), rtol=0, atol=1e-15)
    # eps is a part of the divisor.
    deviation = logits[1].std(1)
    assert_close(
        standard.std(1), deviation / (deviation + 1e-7), rtol=1e-12, atol=0
    )


def test_kd_becomes_invariant_to_scale_and_shift(logits):
    preds_S, preds_T = logits
    loss, connector = KLDivergence(tau=2.0), LogitStandardization()

    def distil(s, t):
        return loss(connector(s), connector(t))

    value = distil(preds_S, preds_T)
    assert_close(
        distil(5 * preds_S + 3, preds_T / 7 - 1), value, rtol=1e-5, atol=0
    )
    assert not torch.isclose(distil(-preds_S, preds_T), value)
    # Nor is the loss without it.
    assert not torch.isclose(
        loss(5 * preds_S, preds_T), loss(preds_S, preds_T)
    )


@pytest.mark.parametrize('constant', [0.0, 0.1, 3.3, -1e4])
@pytest.mark.parametrize('classes', [5, 10, 100])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_equal_logits(constant, classes, dtype):
    """Their mean is rounded, but they are equal all the same."""
    logits = torch.full((2, classes), constant, dtype=dtype)
    logits.requires_grad_()
    standard = LogitStandardization()(logits)
    assert standard.abs().max() == 0
    (standard * torch.randn(2, classes)).sum().backward()
    assert logits.grad.abs().max() == 0


def test_extreme_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0], [500, 0, 0]], requires_grad=True)
    standard = LogitStandardization()(logits)
    assert_close(standard[0], torch.tensor([1.0, -1.0, 0.0]))
    standard[:, 0].sum().backward()
    assert logits.grad.isfinite().all()
