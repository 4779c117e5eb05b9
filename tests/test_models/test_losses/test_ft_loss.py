import pytest
import torch
from torch.nn.functional import l1_loss, mse_loss, normalize
from torch.testing import assert_close

from mmkd_plugin.models import FTLoss, ft_loss


@pytest.mark.parametrize(
    ('distance', 'function'), [('l1', l1_loss), ('squared', mse_loss)]
)
def test_released_form(seed, distance, function):
    preds_S, preds_T = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    expected = function(
        normalize(preds_S.flatten(1)), normalize(preds_T.flatten(1))
    )
    assert_close(ft_loss(preds_S, preds_T, distance), expected)


def test_scales_of_samples_have_no_influence(seed):
    preds_S, preds_T = torch.randn(2, 4, 3, 2, 2).double()
    scales = torch.tensor([1e-3, 0.5, 2.0, 1e3]).view(4, 1, 1, 1)
    loss = FTLoss()
    assert_close(
        loss(preds_S * scales, preds_T / scales), loss(preds_S, preds_T)
    )
    assert loss(-preds_S, preds_T) != loss(preds_S, preds_T)
    assert loss(preds_T * 3, preds_T).item() < 1e-15


def test_gradient_of_a_factor_of_zeros(seed):
    preds_S = torch.zeros(2, 6, requires_grad=True)
    FTLoss()(preds_S, torch.randn(2, 6)).backward()
    assert (preds_S.grad == 0).all()
