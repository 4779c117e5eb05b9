import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import MSELoss


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
def test_zero_only_for_equal_features(seed, reduction):
    loss = MSELoss(reduction=reduction)
    feature = torch.randn(2, 3, 4, 4)
    assert loss(feature, feature).sum() == 0
    for place in [(0, 0, 0, 0), (1, 2, 3, 3)]:
        other = feature.clone()
        other[place] += 1e-3
        assert loss(other, feature).sum() > 0
        assert_close(loss(other, feature), loss(feature, other))


def test_grows_with_the_square():
    feature = torch.ones(2, 3, 4, 4)
    values = [MSELoss()(k * feature, 0 * feature).item() for k in (1, 2, 3)]
    assert values == [1, 4, 9]


def test_gradient_is_twice_the_difference(seed):
    student = torch.randn(2, 5, requires_grad=True)
    teacher = torch.randn(2, 5)
    MSELoss(reduction='sum', loss_weight=0.5)(student, teacher).backward()
    assert_close(student.grad, student.detach() - teacher)


def test_nothing_in_a_batch_is_zero_and_attached():
    feature = torch.zeros(0, 3, 4, 4, requires_grad=True)
    value = MSELoss()(feature, feature.detach())
    assert value == 0
    value.backward()
    assert feature.grad.shape == (0, 3, 4, 4)
