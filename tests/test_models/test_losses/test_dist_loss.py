import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import DISTLoss, dist_loss


@pytest.fixture
def logits(seed):
    return torch.randn(2, 6, 10, dtype=torch.float64)


def plain(preds_S, preds_T, beta=1.0, gamma=1.0, tau=1.0, eps=1e-8):
    """The published form: cosines of centred probabilities."""

    def gap(a, b):
        a = a - a.mean(1, keepdim=True)
        b = b - b.mean(1, keepdim=True)
        return 1 - torch.cosine_similarity(a, b, dim=1, eps=eps).mean()

    prob_S, prob_T = (preds_S / tau).softmax(1), (preds_T / tau).softmax(1)
    inter, intra = gap(prob_S, prob_T), gap(prob_S.t(), prob_T.t())
    return tau**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_published_form(logits, tau):
    preds_S, preds_T = logits
    preds_S.requires_grad_()
    values = [
        form(preds_S, preds_T, 0.5, 2.0, tau) for form in (dist_loss, plain)
    ]
    assert_close(*values, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(v, preds_S)[0] for v in values]
    assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_nothing_to_learn_from_oneself(logits, dtype):
    for same in (
        logits[0],
        logits[0][:1],
        torch.zeros(4, 3),
        torch.ones(4, 1),
        logits[0][[0, 0, 0]],
    ):
        preds_S = same.to(dtype).clone().requires_grad_()
        value = dist_loss(preds_S, preds_S.detach())
        value.backward()
        assert value.abs() < 20 * torch.finfo(dtype).eps
        assert preds_S.grad.abs().max() < 20 * torch.finfo(dtype).eps


def test_terms(logits):
    """Opposite orders within two classes, and within a sample."""
    preds_T = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert dist_loss(preds_T.flip(0), preds_T, gamma=0).item() == 2
    assert dist_loss(preds_T.flip(0), preds_T, beta=0).item() == 2
    # Two classes have the correlation 1 or -1, whatever the values.
    assert_close(
        dist_loss(9 * preds_T, preds_T).item(), 0.0, atol=1e-6, rtol=0
    )


def test_only_relations_count(logits):
    """A teacher surer of the same relations leaves nothing to learn."""
    prob = logits[0].softmax(1)
    mixed = 0.3 * prob + 0.7 / 10
    assert_close(
        dist_loss(mixed.log(), prob.log()).item(), 0.0, rtol=0, atol=1e-12
    )
    assert dist_loss((prob**2).log(), prob.log()) > 1e-3


def test_a_single_sample_has_no_class_relation(logits):
    preds_S, preds_T = logits[:, :1]
    assert dist_loss(preds_S, preds_T, beta=0) == 0
    assert dist_loss(preds_S, preds_T) == dist_loss(preds_S, preds_T, gamma=0)


def test_constant_sides():
    varied = torch.tensor([[0.0, 1.0, 3.0]])
    student = torch.zeros(1, 3, requires_grad=True)
    value = dist_loss(student, varied, gamma=0)
    value.backward()
    assert value == 1
    assert student.grad.abs().max() == 0
    assert dist_loss(varied, torch.zeros(1, 3)) == 0


def test_rare_classes_count(logits):
    """Also where the published bound of norms, 1e-8, hides them."""
    preds_S, preds_T = logits
    rare = torch.zeros(10, dtype=torch.float64)
    rare[3] = -90
    exact = plain(preds_S + rare, preds_T + rare, beta=0, eps=0)
    bounded = plain(preds_S + rare, preds_T + rare, beta=0)
    assert abs(exact - bounded) > 0.01
    preds_S, preds_T = (preds_S + rare).float(), (preds_T + rare).float()
    preds_S.requires_grad_()
    value = dist_loss(preds_S, preds_T, beta=0)
    value.backward()
    assert_close(value.double(), exact, rtol=1e-4, atol=0)
    assert preds_S.grad[:, 3].abs().max() > 1e-3


def test_weights_of_the_module(logits):
    preds_S, preds_T = logits
    loss = DISTLoss(beta=2.0, gamma=0.5, tau=4.0, loss_weight=3.0)
    assert_close(
        loss(preds_S, preds_T), 3 * plain(preds_S, preds_T, 2.0, 0.5, 4.0)
    )
