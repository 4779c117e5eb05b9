import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import PKTLoss


@pytest.fixture
def features(seed):
    """Student's and teacher's, float64, of 6 samples, of two widths."""
    return (
        torch.randn(6, 5, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 9, dtype=torch.float64),
    )


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def test_golden_vectors(golden):
    for case in golden('pkt_cc'):
        feat_S = torch.tensor(case['feat_s']).double().requires_grad_()
        feat_T = torch.tensor(case['feat_t']).double()
        value = PKTLoss()(feat_S, feat_T)
        exact = torch.tensor(case['loss_f64'])
        assert_close(value, exact, rtol=1e-9, atol=0)
        (gradient,) = torch.autograd.grad(value, feat_S)
        expected = torch.tensor(case['grad_feat_s_f64'])
        largest = expected.abs().max().item()
        assert_close(gradient, expected, rtol=1e-9, atol=1e-9 * largest)
        single = PKTLoss()(feat_S.float(), feat_T.float())
        assert_close(single.double(), exact, rtol=2e-5, atol=0)


def test_rotation_and_scale_are_nothing(features):
    preds_S, preds_T = features
    loss = PKTLoss()
    expected = loss(preds_S, preds_T)
    assert expected > 1e-3
    scale = torch.linspace(0.5, 5, 6)[:, None]
    moved_S = scale * preds_S @ rotation(5)
    moved_T = 7 * preds_T @ rotation(9)
    assert_close(loss(moved_S, moved_T), expected, rtol=1e-5, atol=0)
    assert loss(moved_T, preds_T).abs() < 1e-9
    assert not torch.isclose(loss(preds_S + 1, preds_T), expected, rtol=1e-3)


def test_it_is_the_divergence_of_the_rows(features):
    """Hence positive, and lowest at the teacher; student second."""
    loss = PKTLoss()
    forth, back = loss(*features), loss(features[1], features[0])
    rows = []
    for feature in features:
        cosine = torch.cosine_similarity(feature[None], feature[:, None], -1)
        rows.append((cosine + 1) / (cosine + 1).sum(dim=1, keepdim=True))
    expected = (rows[1] * (rows[1].log() - rows[0].log())).sum() / 36
    assert_close(forth, expected, rtol=1e-5, atol=0)
    assert not torch.isclose(forth, back, rtol=1e-3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_opposite_samples(seed, dtype):
    """Rounded, their cosine is below -1, and its logarithm none."""
    teacher = torch.randn(2, 8, dtype=dtype)
    for half in 1e4 * torch.randn(40, 1, 4096, dtype=dtype):
        opposite = torch.cat([half, -half]).requires_grad_()
        value = PKTLoss()(opposite, teacher)
        assert value.isfinite()
        (gradient,) = torch.autograd.grad(value, opposite)
        assert gradient.abs().max() < 1e3
        assert PKTLoss()(teacher, opposite).isfinite()


def test_a_sample_of_zeros_has_no_gradient(features):
    """It is as near to all; its own divisor would make 1e7 of nothing."""
    preds_S, preds_T = features
    kept = torch.ones(6, 1, dtype=torch.float64)
    kept[2] = 0
    dead = (preds_S.detach() * kept).requires_grad_()
    (gradient,) = torch.autograd.grad(PKTLoss()(dead, preds_T), dead)
    assert (gradient[2] == 0).all()
    assert gradient[0].abs().max() > 1e-5
