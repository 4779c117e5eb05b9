import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import CCLoss, cc_loss
from mmkd_plugin.models.losses.cc_loss import _kernel


@pytest.fixture
def features(seed):
    """Student's and teacher's, float64, of 6 samples and one width."""
    return (
        torch.randn(6, 7, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 7, dtype=torch.float64),
    )


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def gaussian(feature, gamma):
    """The kernel itself, from the distances."""
    units = feature / feature.norm(dim=1, keepdim=True)
    return (-gamma * torch.cdist(units, units).square()).exp()


def test_golden_vectors_of_the_other_form(golden):
    """Those of a public code that has the name but not the formula."""
    for case in golden('pkt_cc'):
        feat_S = torch.tensor(case['cc__feat_s']).double().requires_grad_()
        feat_T = torch.tensor(case['cc__feat_t']).double()
        loss = CCLoss(form='neighbor')
        value = loss(feat_S, feat_T)
        exact = torch.tensor(case['cc__loss_f64'])
        assert_close(value, exact, rtol=1e-9, atol=0)
        (gradient,) = torch.autograd.grad(value, feat_S)
        expected = torch.tensor(case['cc__grad_feat_s_f64'])
        assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
        single = loss(feat_S.float(), feat_T.float())
        assert_close(single.double(), exact, rtol=2e-5, atol=0)
        assert not torch.isclose(CCLoss()(feat_S, feat_T), exact)


def test_taylor_polynomial_of_the_gaussian_kernel():
    """The known errors of the orders 2 and 4, worst where samples agree."""
    angles = torch.linspace(0, 3.2, 60, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    exact = gaussian(circle, 0.4)
    errors = [
        (_kernel(circle, 0.4, order) - exact).abs().max().item()
        for order in (2, 4)
    ]
    assert errors == pytest.approx([0.0474, 0.00141], abs=5e-5)
    assert_close(_kernel(circle, 0.4, 20), exact)


@pytest.mark.parametrize('gamma', [0.4, 2.0])
def test_high_orders_compare_the_kernel_itself(features, gamma):
    gap = gaussian(features[0], gamma) - gaussian(features[1], gamma)
    expected = gap.square().mean()
    assert expected > 1e-4
    assert_close(cc_loss(*features, gamma=gamma, order=30), expected)


def test_rotation_and_scale_of_samples_are_nothing(features):
    preds_S, preds_T = features
    loss = CCLoss()
    expected = loss(preds_S, preds_T)
    assert expected > 1e-3
    scale = torch.linspace(0.5, 5, 6)[:, None]
    moved_S = scale * preds_S @ rotation(7)
    assert_close(loss(moved_S, 7 * preds_T @ rotation(7)), expected)
    assert loss(preds_T @ rotation(7), preds_T) < 1e-25
    assert not torch.isclose(loss(preds_S + 1, preds_T), expected)


def test_term_of_instances(features):
    """2 - 2 cos of a sample, at any scale of it, but not rotated."""
    preds_S, preds_T = features
    cosine = torch.cosine_similarity(preds_S, preds_T)
    term = (2 - 2 * cosine).mean()
    for form in ('kernel', 'neighbor'):
        plain = CCLoss(form=form)(preds_S, preds_T)
        both = CCLoss(form=form, instance_weight=0.3)(preds_S, preds_T)
        assert_close(both, plain + 0.3 * term)
    # It is there for a single sample, which has no correlations.
    alone = CCLoss(instance_weight=0.3)(preds_S[:1], preds_T[:1])
    assert_close(alone, 0.3 * (2 - 2 * cosine[0]))


def test_order_of_samples_matters_to_the_other_form_alone(features):
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = [x[order] for x in features]
    assert_close(CCLoss()(*shuffled), CCLoss()(*features))
    loss = CCLoss(form='neighbor')
    assert not torch.isclose(loss(*shuffled), loss(*features))


def test_a_sample_of_zeros_has_no_gradient(features):
    """Where its divisor is only kept from zero, it has one of 1e12."""
    preds_S, preds_T = features
    kept = torch.ones(6, 1, dtype=torch.float64)
    kept[2] = 0
    dead = (preds_S.detach() * kept).requires_grad_()
    loss = CCLoss(instance_weight=1.0)
    (gradient,) = torch.autograd.grad(loss(dead, preds_T), dead)
    assert (gradient[2] == 0).all()
    assert gradient[0].abs().max() > 1e-4
