"""FitNets' hint is a ConvConnector in front of the MSELoss."""

import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import ConvConnector, MSELoss


@pytest.mark.parametrize(
    ('dtype', 'rtol'), [(torch.float64, 1e-9), (torch.float32, 2e-5)]
)
def test_golden_vectors(golden, dtype, rtol):
    compared = []
    for case in golden('fitnet'):
        feat_S = torch.tensor(case['feat_s']).to(dtype).requires_grad_()
        feat_T = torch.tensor(case['feat_t']).to(dtype)
        weight = torch.tensor(case['reg__conv_weight']).to(dtype)
        size_S, size_T = feat_S.shape[2], feat_T.shape[2]
        kernel_size = weight.shape[2]
        stride = size_S // size_T
        if stride * size_T != size_S or kernel_size % 2 == 0:
            # A transposed convolution, and one without padding.
            continue
        regressor = ConvConnector(
            feat_S.shape[1],
            feat_T.shape[1],
            kernel_size=kernel_size,
            stride=stride,
            norm_cfg=dict(type='BN'),
            act_cfg=dict(type='ReLU'),
        ).to(dtype)
        with torch.no_grad():
            # The bias of the case's convolution drops out in its BN.
            regressor.conv.conv.weight.copy_(weight)
            for name in ('weight', 'bias'):
                value = torch.tensor(case[f'reg__bn_{name}'])
                getattr(regressor.conv.norm, name).copy_(value)
        value = MSELoss()(regressor(feat_S), feat_T)
        expected = torch.tensor(case['loss_f64'])
        assert_close(value.double(), expected, rtol=rtol, atol=0)
        (gradient,) = torch.autograd.grad(value, feat_S)
        expected = torch.tensor(case['grad_feat_s_f64'])
        assert_close(
            gradient.double(),
            expected,
            rtol=rtol,
            atol=rtol * expected.abs().max().item(),
        )
        compared.append((kernel_size, stride))
    assert compared == [(1, 1), (3, 2)]
