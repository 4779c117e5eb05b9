import torch
from torch.testing import assert_close

from mmkd_plugin.models import MGDLoss, MSELoss


def test_is_a_sum_over_the_map_and_a_mean_over_the_batch(seed):
    preds_S, preds_T = torch.randn(2, 4, 3, 5, 2)
    expected = MSELoss(loss_weight=7e-5 * 3 * 5 * 2)(preds_S, preds_T)
    value = MGDLoss(loss_weight=7e-5)(preds_S, preds_T)
    assert_close(value, expected)
