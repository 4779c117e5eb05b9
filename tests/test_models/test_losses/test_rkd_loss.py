import pytest
import torch
from contracts.relation import rkd_reference
from torch.testing import assert_close

from mmkd_plugin.models import RKDLoss, rkd_loss


@pytest.fixture
def features(seed):
    """Student's and teacher's, float64, of 6 samples, of two widths."""
    return (
        torch.randn(6, 5, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 9, dtype=torch.float64),
    )


def gradient_of(value, preds_S):
    return torch.autograd.grad(value, preds_S)[0]


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def test_golden_vectors(golden):
    repeated = 0
    for case in golden('rkd'):
        options = dict(
            distance_weight=case['distance_weight'].item(),
            angle_weight=case['angle_weight'].item(),
            squared=bool(case['squared']),
        )
        feat_S = torch.tensor(case['feat_s']).double().requires_grad_()
        feat_T = torch.tensor(case['feat_t']).double()
        value = RKDLoss(**options)(feat_S, feat_T)
        exact = torch.tensor(case['loss_f64'])
        assert_close(value, exact, rtol=1e-9, atol=0)
        gradient = gradient_of(value, feat_S)
        expected = torch.tensor(case['grad_feat_s_f64'])
        _, kind, size = feat_S.unique(
            dim=0, return_inverse=True, return_counts=True
        )
        equal = size[kind] > 1
        largest = expected[~equal].abs().max().item()
        assert_close(
            gradient[~equal], expected[~equal], rtol=1e-9, atol=1e-9 * largest
        )
        # At equal rows, the released code divides by 1e-12.
        assert (expected[equal].abs() > 1e9).all()
        assert (gradient[equal].abs() < 10 * largest).all()
        single = RKDLoss(**options)(feat_S.float(), feat_T.float())
        assert_close(single.double(), exact, rtol=2e-5, atol=0)
        repeated += equal.any().item()
    assert repeated


@pytest.mark.parametrize('options', [{}, dict(squared=True)])
def test_similarity_transforms_are_nothing(features, options):
    preds_S, preds_T = features
    loss = RKDLoss(**options)
    expected = loss(preds_S, preds_T)
    assert expected > 1
    moved_S = 0.3 * preds_S @ rotation(5) - 4
    moved_T = 20 * preds_T @ rotation(9) + torch.arange(9.0)
    assert_close(loss(moved_S, moved_T), expected)
    # A student in more dimensions that is the teacher, but for that.
    wide = torch.cat([moved_T, torch.ones(6, 3)], dim=1)
    assert loss(wide, preds_T) < 1e-20
    stretched = preds_S * torch.linspace(0.5, 2, 5)
    assert not torch.isclose(loss(stretched, preds_T), expected)


def test_normalized_form(features):
    """Scale of every sample is nothing, as in MMRazor; a shift is not."""
    preds_S, preds_T = features
    scale = torch.linspace(0.1, 5, 6)[:, None]
    loss = RKDLoss(normalize=True)
    expected = loss(preds_S, preds_T)
    assert_close(loss(scale * preds_S, preds_T), expected)
    assert not torch.isclose(loss(preds_S + 1, preds_T), expected)
    plain = RKDLoss()
    assert not torch.isclose(plain(preds_S, preds_T), expected)
    units = [x / x.norm(dim=1, keepdim=True) for x in features]
    assert_close(plain(*units), expected)


def test_terms_add_up(features):
    distance = rkd_loss(*features, 1.0, 0.0)
    angle = rkd_loss(*features, 0.0, 1.0)
    assert distance > 1e-3
    assert angle > 1e-3
    assert_close(RKDLoss()(*features), 25 * distance + 50 * angle)


def test_angles_of_a_line():
    """All on a line: cosines of 1 and -1, and 0 with a sample itself."""
    line = torch.tensor([[0.0, 0], [1, 0], [3, 0]])
    corner = torch.tensor([[0.0, 0], [1, 0], [0, 1]])
    # The corner has cosines of 0 at one place and 1 / sqrt(2) at two, where
    # the line has 1, -1 and 1; each of them twice.
    gap = 1 - 0.5**0.5
    expected = (2 * 0.5 + 2 * (1 + 0.5**0.5 - 0.5) + 2 * gap**2 / 2) / 27
    value = rkd_loss(line, corner, 0.0, 1.0)
    assert_close(value.item(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize('normalize', [False, True])
def test_equal_samples_of_the_student_alone(features, normalize):
    """Its value is the formula's, its gradient that of the others."""
    preds_S, preds_T = features
    twice = preds_S.detach()[[0, 0, 1, 2, 3, 4]].requires_grad_()
    value = RKDLoss(normalize=normalize)(twice, preds_T)
    expected = rkd_reference(twice, preds_T, normalize=normalize)
    assert_close(value.item(), expected, rtol=1e-12, atol=0)
    gradient = gradient_of(value, twice)
    # A divisor that is only kept from zero gives some 1e12.
    assert 1e-3 < gradient.abs().max() < 1e3
    all_one = preds_S.detach()[:1].repeat(6, 1).requires_grad_()
    value = RKDLoss(normalize=normalize)(all_one, preds_T)
    assert (gradient_of(value, all_one) == 0).all()


def test_common_offset_does_not_cancel(seed):
    """In float32, where products of the samples would lose all digits."""
    preds_S, preds_T = torch.randn(2, 8, 5)
    exact = RKDLoss()(preds_S.double(), preds_T.double())
    shifted = RKDLoss()(preds_S + 1000, preds_T + 1000)
    assert_close(shifted.double(), exact, rtol=1e-3, atol=0)


def test_two_samples_have_equal_relations(features):
    preds_S, preds_T = (x[:2] for x in features)
    value = RKDLoss()(preds_S, preds_T)
    assert value.abs() < 1e-20
    assert gradient_of(value, preds_S).abs().max() < 1e-9


def test_angles_of_near_samples(seed):
    """In float32, where the Gram matrix alone holds nothing of them."""
    preds_S, preds_T = 5 + torch.randn(2, 6, 8)
    preds_S[1] = preds_S[0] + 1e-4 * torch.randn(8)
    preds_S.requires_grad_()
    value = rkd_loss(preds_S, preds_T, 0.0, 1.0)
    exact = rkd_reference(preds_S.double(), preds_T.double(), 0.0, 1.0)
    assert_close(value.item(), exact, rtol=1e-5, atol=0)
    wide = preds_S.detach().double().requires_grad_()
    expected = gradient_of(rkd_loss(wide, preds_T.double(), 0.0, 1.0), wide)
    assert_close(
        gradient_of(value, preds_S).double(),
        expected,
        rtol=0,
        atol=1e-3 * expected.abs().max().item(),
    )


def test_samples_that_are_all_but_equal(seed):
    """No float is lost where the products of lengths are none."""
    preds_S = torch.randn(1, 8).repeat(5, 1)
    preds_S[:, 0] = torch.tensor([0.0, 1e-30, 1e-11, 3e-9, 1.0])
    preds_S.requires_grad_()
    value = rkd_loss(preds_S, torch.randn(5, 3), 0.0, 1.0)
    assert 0 < value < 2
    assert gradient_of(value, preds_S).isfinite().all()
