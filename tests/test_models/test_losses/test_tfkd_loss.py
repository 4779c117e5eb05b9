import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from torch.testing import assert_close

from mmkd_plugin.models import tfkd_loss


@pytest.fixture
def batch(seed):
    """Logits, float64, and labels."""
    preds_S = 3 * torch.randn(6, 10, dtype=torch.float64)
    return preds_S.requires_grad_(), torch.tensor([0, 9, 3, 3, 1, 7])


def gradient(value, preds_S):
    return torch.autograd.grad(value, preds_S)[0]


@pytest.mark.parametrize('correct_prob', [0.9, 0.99])
def test_at_temperature_one_it_is_label_smoothing(batch, correct_prob):
    preds_S, labels = batch
    # What both give to another class than the label.
    smoothing = 10 * 0.4 * (1 - correct_prob) / 9
    smoothed = cross_entropy(preds_S, labels, label_smoothing=smoothing)
    value = tfkd_loss(
        preds_S, labels, alpha=0.4, tau=1.0, correct_prob=correct_prob
    )
    made_up = torch.full((10,), (1 - correct_prob) / 9).double()
    made_up[0] = correct_prob
    entropy = -(made_up * made_up.log()).sum()
    assert_close(value, smoothed - 0.4 * entropy, rtol=1e-7, atol=0)
    assert_close(
        gradient(value, preds_S),
        gradient(smoothed, preds_S),
        rtol=1e-7,
        atol=1e-12,
    )


def virtual_target(official_compat):
    """What a flat student is pulled to, C = 10 and tau = 20."""
    flat = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
    value = tfkd_loss(
        flat,
        torch.tensor([2]),
        alpha=1.0,
        multiplier=10.0 if official_compat else 20.0,
        official_compat=official_compat,
    )
    return 0.1 - gradient(value, flat)[0]


def test_softened_virtual_teacher():
    """In the published code it is nearly flat: 0.104 to 0.0995."""
    official = virtual_target(True)
    assert round(official[2].item(), 4) == 0.1045
    assert round(official[3].item(), 4) == 0.0995
    ratio = (0.99 * 9 / 0.01) ** (1 / 20)
    target = virtual_target(False)
    assert target[2].item() == pytest.approx(ratio / (ratio + 9), rel=1e-9)
    assert target[3].item() == pytest.approx(1 / (ratio + 9), rel=1e-9)


def test_published_code(batch):
    preds_S, labels = batch
    made_up = torch.full((6, 10), 0.01 / 9, dtype=torch.float64)
    made_up[range(6), labels] = 0.99
    # The mean over all elements.
    soft = (
        kl_div(
            preds_S.log_softmax(1), (made_up / 20).softmax(1), reduction='sum'
        )
        / 60
    )
    expected = 0.9 * cross_entropy(preds_S, labels) + 0.1 * 100 * soft
    value = tfkd_loss(preds_S, labels, multiplier=100.0, official_compat=True)
    assert_close(value, expected, rtol=1e-9, atol=0)
    assert_close(
        gradient(value, preds_S),
        gradient(expected, preds_S),
        rtol=1e-9,
        atol=1e-14,
    )


def test_without_a_share_it_is_the_cross_entropy(batch):
    for official_compat in (False, True):
        value = tfkd_loss(*batch, alpha=0, official_compat=official_compat)
        assert_close(value, cross_entropy(*batch), rtol=1e-12, atol=0)


def test_zero_for_the_virtual_teacher_itself():
    made_up = torch.full((1, 5), 0.2 / 4, dtype=torch.float64)
    made_up[0, 1] = 0.8
    value = tfkd_loss(
        made_up.log() + 3,
        torch.tensor([1]),
        alpha=1.0,
        correct_prob=0.8,
        tau=7.0,
    )
    assert value.abs() < 1e-15
