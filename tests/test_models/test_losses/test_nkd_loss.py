import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from mmkd_plugin.models import NKDLoss, nkd_loss


@pytest.mark.parametrize(
    ('kind', 'mask_target'), [('nkd_original', True), ('nkd_sddrepo', False)]
)
def test_golden_vectors(golden, kind, mask_target):
    cases = [c for c in golden('logit_losses') if f'{kind}__loss_f64' in c]
    assert len(cases) >= 4
    for case in cases:
        preds_S = torch.tensor(case['kd__logits_s']).double().requires_grad_()
        preds_T = torch.tensor(case['kd__logits_t']).double()
        labels = torch.tensor(case['kd__target'])
        loss = NKDLoss(
            gamma=case[f'{kind}__gamma'].item(),
            tau=case[f'{kind}__T'].item(),
            mask_target=mask_target,
        )
        value = loss(preds_S, preds_T, labels)
        (gradient,) = torch.autograd.grad(value, preds_S)
        expected = torch.tensor(case[f'{kind}__loss_f64'])
        assert_close(value, expected, rtol=1e-9, atol=0)
        wanted = torch.tensor(case[f'{kind}__grad_logits_s_f64'])
        assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
        single = preds_S.detach().float().requires_grad_()
        value = loss(single, preds_T.float(), labels)
        (gradient,) = torch.autograd.grad(value, single)
        assert_close(value.double(), expected, rtol=2e-5, atol=0)
        assert (gradient - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.fixture
def batch(seed):
    """Student's and teacher's logits, float64, and labels."""
    return (
        torch.randn(5, 7, dtype=torch.float64),
        2 * torch.randn(5, 7, dtype=torch.float64),
        torch.tensor([0, 6, 3, 3, 1]),
    )


def test_sure_teacher_gives_cross_entropy(batch):
    preds_S, _, labels = batch
    preds_T = 1e3 * torch.nn.functional.one_hot(labels, 7).double()
    value = nkd_loss(preds_S, preds_T, labels, gamma=0)
    assert_close(value, cross_entropy(preds_S, labels), rtol=1e-12, atol=0)


def test_masked_rest_ignores_the_target_logit(batch):
    """And the rest with the target in it, the repository's, does not."""
    preds_S, preds_T, labels = batch
    moved = preds_T.scatter_add(
        1, labels[:, None], torch.full((5, 1), 2.0, dtype=torch.float64)
    )
    for masked in (True, False):
        rest = [
            nkd_loss(preds_S, t, labels, gamma=1.0, mask_target=masked)
            - nkd_loss(preds_S, t, labels, gamma=0.0)
            for t in (preds_T, moved)
        ]
        assert torch.isclose(*rest, rtol=1e-9).item() is masked


def test_rest_is_least_where_the_student_agrees(batch):
    """A cross entropy is at its least, the entropy, at the same rest."""
    _, preds_T, labels = batch
    preds_S = preds_T.clone().requires_grad_()
    value = nkd_loss(preds_S, preds_T, labels, gamma=2.0, tau=3.0) - nkd_loss(
        preds_S, preds_T, labels, gamma=0.0
    )
    (gradient,) = torch.autograd.grad(value, preds_S)
    assert gradient.abs().max() < 1e-15


def test_teacher_with_one_class_left():
    preds_T = torch.tensor([[-torch.inf, 9.0, -torch.inf]])
    preds_S = torch.tensor([[0.5, 1.0, 0.0]])
    log_S = preds_S.log_softmax(1)[0]
    # Sure of the label: nothing is said about the rest.
    value = nkd_loss(preds_S, preds_T, torch.tensor([1]), gamma=1.0)
    assert_close(value, -log_S[1])
    # Sure of another class.
    value = nkd_loss(preds_S, preds_T, torch.tensor([0]), gamma=1.0)
    assert_close(value, -preds_S[:, 1:].log_softmax(1)[0, 0])
