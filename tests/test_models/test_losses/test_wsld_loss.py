import math

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, softmax
from torch.testing import assert_close

from mmkd_plugin.models import WSLDLoss, kl_divergence, wsld_loss


def released(preds_S, preds_T, labels, tau):
    """The published form: the cross entropy of the soft labels, weighted."""
    soft = softmax(preds_T / tau, 1) * log_softmax(preds_S / tau, 1)
    ratio = cross_entropy(preds_S.detach(), labels, reduction='none') / (
        cross_entropy(preds_T, labels, reduction='none') + 1e-7
    )
    return -(tau**2) * ((1 - (-ratio).exp()) * soft.sum(1)).mean()


@pytest.mark.parametrize('tau', [1.0, 2.0])
def test_gradient_is_that_of_the_published_form(seed, tau):
    preds_T = 3 * torch.randn(6, 5).double()
    labels = torch.arange(6) % 5
    grads = []
    for function in (wsld_loss, released):
        preds_S = torch.zeros(6, 5).double() + torch.arange(5) * 0.3
        preds_S.requires_grad_()
        function(preds_S, preds_T, labels, tau).backward()
        grads.append(preds_S.grad)
    assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-15)


def test_known_weights():
    """Two classes: the cost ratio is 1 at equal logits, so 1 - 1 / e."""
    labels = torch.tensor([0, 1, 0])
    preds_T = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    # The student has swapped: other divergences, known costs.
    preds_S = preds_T.flip(1)
    values = wsld_loss(preds_S, preds_T, labels, 1.0, 'none')
    plain = kl_divergence(preds_S, preds_T, 1.0, 'none')
    costs = [math.log(1 + math.exp(-gap)) for gap in (2.0, 1.0)]
    others = [math.log(1 + math.exp(gap)) for gap in (2.0, 1.0)]
    weights = [
        1 - math.exp(-b / a) for a, b in zip(costs, others, strict=True)
    ]
    assert_close(values[:2], plain[:2] * torch.tensor(weights))
    assert values[2] == 0


def test_a_student_that_is_sure_learns_little(seed):
    preds_T = torch.randn(4, 5)
    labels = preds_T.argmax(1)
    sure = 50 * torch.nn.functional.one_hot(labels, 5).float()
    wrong = -sure
    low = wsld_loss(sure, preds_T, labels, reduction='none')
    high = wsld_loss(wrong, preds_T, labels, reduction='none')
    assert (low < 1e-6).all()
    plain = kl_divergence(wrong, preds_T, 2.0, 'none')
    assert_close(high, plain, rtol=1e-5, atol=0)


def test_equal_logits_have_no_loss(seed):
    logits = torch.randn(4, 5)
    assert WSLDLoss()(logits, logits, torch.arange(4)).item() < 1e-6
