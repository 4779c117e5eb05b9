import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import L1Loss


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
def test_zero_only_for_equal_features(seed, reduction):
    loss = L1Loss(reduction=reduction)
    feature = torch.randn(2, 3, 4, 4)
    assert loss(feature, feature).sum() == 0
    for place in [(0, 0, 0, 0), (1, 2, 3, 3)]:
        other = feature.clone()
        other[place] += 1e-3
        assert loss(other, feature).sum() > 0
        assert_close(loss(other, feature), loss(feature, other))


def test_two_terms_weigh_alike_whatever_their_size():
    """A map of 64x32x32 does not outweigh a vector of 512."""
    loss = L1Loss()
    large = loss(torch.zeros(2, 64, 32, 32), torch.ones(2, 64, 32, 32))
    assert large == loss(torch.zeros(2, 512), torch.ones(2, 512)) == 1


def test_nothing_in_a_batch_is_zero_and_attached():
    feature = torch.zeros(0, 3, 4, 4, requires_grad=True)
    value = L1Loss()(feature, feature.detach())
    assert value == 0
    value.backward()
    assert feature.grad.shape == (0, 3, 4, 4)
