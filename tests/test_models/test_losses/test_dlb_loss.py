"""What the contract does not say of DLB's loss."""

import torch
from torch.nn.functional import kl_div, log_softmax
from torch.testing import assert_close

from mmkd_plugin.models import DLBLoss, dlb_loss


def test_only_images_seen_again_get_a_gradient(seed):
    preds_S = torch.randn(5, 4, requires_grad=True)
    past = torch.randn(2, 4)
    DLBLoss()(preds_S, past).backward()
    assert (preds_S.grad[:2].abs().sum(1) > 0).all()
    assert (preds_S.grad[2:] == 0).all()


def test_formula_of_the_paper(seed):
    preds_S, past = torch.randn(5, 4), torch.randn(3, 4)
    expected = 9 * kl_div(
        log_softmax(preds_S[:3] / 3, dim=1),
        log_softmax(past / 3, dim=1),
        reduction='batchmean',
        log_target=True,
    )
    assert_close(dlb_loss(preds_S, past), expected)


def test_without_a_past(seed):
    """It takes part in the graph, as other ranks wait for the gradient."""
    preds_S = torch.randn(3, 4, requires_grad=True)
    loss = DLBLoss(loss_weight=2.0)(preds_S, preds_S.detach()[:0])
    assert loss == 0
    loss.backward()
    assert preds_S.grad.tolist() == [[0.0] * 4] * 3
