import torch
from torch.testing import assert_close

from mmkd_plugin.models import HCLLoss


def test_constant_gap_weighs_the_same_at_all_levels():
    preds_T = torch.arange(64.0).view(1, 1, 8, 8)
    assert_close(HCLLoss()(preds_T + 3, preds_T), torch.tensor(9.0))


def test_fine_gap_is_seen_at_the_finest_level_alone():
    rows = torch.arange(8)
    preds_S = (-1.0) ** (rows[:, None] + rows).expand(2, 3, 8, 8)
    value = HCLLoss()(preds_S, torch.zeros(2, 3, 8, 8))
    assert_close(value, torch.tensor(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8)))


def test_level_that_is_left_out_passes_its_weight_on():
    """Maps of 4x4 are not pooled to 4x4; 2x2 then has the weight 1/2."""
    quadrants = torch.ones(1, 1, 4, 4)
    quadrants[..., :2, :2] = quadrants[..., 2:, 2:] = -1
    value = HCLLoss()(quadrants, torch.zeros(1, 1, 4, 4))
    assert_close(value, torch.tensor((1 + 1 / 2) / (1 + 1 / 2 + 1 / 4)))
    assert_close(HCLLoss(levels=(2, 1))(quadrants, 0 * quadrants), value)
