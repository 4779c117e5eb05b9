"""Weights that are no numbers any more."""

import math

import pytest
import torch

from mmkd_plugin.utils.finite import find_non_finite


def test_all_is_finite():
    assert find_non_finite({}) is None
    norm = torch.nn.BatchNorm2d(2)
    # Its count of batches is an integer.
    assert find_non_finite(norm.state_dict()) is None
    large = dict(
        double=torch.tensor([1e300], dtype=torch.double),
        half=torch.tensor([6e4], dtype=torch.half),
        empty=torch.zeros(0),
        flag=torch.tensor(True),
    )
    assert find_non_finite(large) is None


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('dtype', [torch.float, torch.double, torch.half])
def test_the_first_broken_one_is_named(value, dtype):
    weights = {name: torch.ones(2, 3, dtype=dtype) for name in 'abcd'}
    for name in 'bd':
        weights[name][1, 2] = value
    assert find_non_finite(weights) == 'b'
