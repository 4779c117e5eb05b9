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
        options = dict(kernel_size=weight.shape[2])
        if size_S == 2 * size_T:
            options.update(stride=2)
        elif 2 * size_S == size_T:
            options.update(stride=2, padding=1, transposed=True)
        else:
            options.update(padding=0)
        regressor = ConvConnector(
            feat_S.shape[1],
            feat_T.shape[1],
            **options,
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
        compared.append((size_S, size_T, options['kernel_size']))
    assert compared == [(8, 8, 1), (8, 4, 3), (4, 8, 4), (7, 5, 3)]
