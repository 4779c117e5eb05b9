import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import SPLoss


@pytest.fixture
def features(seed):
    """Student's and teacher's, float64, of 6 samples, of two widths."""
    return (
        torch.randn(6, 5, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 9, dtype=torch.float64),
    )


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def layers(case, dtype):
    """Student and teacher features of all layers of a case."""
    count = sum(key.startswith('feat_s') for key in case)
    return [
        [
            torch.tensor(case[f'feat_{side}{i}']).to(dtype).requires_grad_()
            for i in range(count)
        ]
        for side in 'st'
    ]


def test_golden_vectors(golden):
    cases = golden('sp')
    assert any('feat_s1' in case for case in cases)
    for case in cases:
        exact = torch.tensor(case['loss_f64'])
        loss = SPLoss()
        feats_S, feats_T = layers(case, torch.float64)
        value = sum(map(loss, feats_S, feats_T))
        assert_close(value, exact, rtol=1e-9, atol=0)
        gradients = torch.autograd.grad(value, feats_S)
        for i, gradient in enumerate(gradients):
            expected = torch.tensor(case[f'grad_feat_s{i}_f64'])
            largest = expected.abs().max().item()
            assert_close(gradient, expected, rtol=1e-9, atol=1e-9 * largest)
        single = sum(map(loss, *layers(case, torch.float32)))
        assert_close(single.double(), exact, rtol=2e-5, atol=0)


def test_rotation_and_scale_are_nothing_and_a_shift_is_not(features):
    preds_S, preds_T = features
    loss = SPLoss()
    expected = loss(preds_S, preds_T)
    assert expected > 1e-2
    moved_S, moved_T = 0.3 * preds_S @ rotation(5), 7 * preds_T @ rotation(9)
    assert_close(loss(moved_S, moved_T), expected)
    assert loss(moved_T, preds_T) < 1e-25
    assert not torch.isclose(loss(preds_S + 1, preds_T), expected)
    # The scale of a single sample is not that of the batch.
    scaled = preds_S * torch.linspace(0.1, 5, 6)[:, None]
    assert not torch.isclose(loss(scaled, preds_T), expected)


def test_a_sample_of_zeros_has_no_gradient(features):
    """Where its divisor is only kept from zero, it has one of 1e12."""
    preds_S, preds_T = features
    kept = torch.ones(6, 1, dtype=torch.float64)
    kept[2] = 0
    dead = (preds_S.detach() * kept).requires_grad_()
    (gradient,) = torch.autograd.grad(SPLoss()(dead, preds_T), dead)
    assert gradient.abs().max() < 10
    assert gradient[0].abs().max() > 1e-4


def test_a_single_sample_of_zeros():
    """Without others it is no less like itself than that of the teacher."""
    alone = torch.zeros(1, 3, requires_grad=True)
    value = SPLoss()(alone, torch.ones(1, 3))
    assert value == 0
    assert (torch.autograd.grad(value, alone)[0] == 0).all()
