import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import NSTLoss


@pytest.mark.parametrize(
    ('dtype', 'rtol'), [(torch.float64, 1e-9), (torch.float32, 2e-5)]
)
def test_golden_vectors(golden, dtype, rtol):
    cases = golden('at_nst')
    for case in cases:
        stages = [k[-1] for k in case if k.startswith('at__feat_s')]
        feats_S = [
            torch.tensor(case[f'at__feat_s{i}']).to(dtype).requires_grad_()
            for i in stages
        ]
        value = sum(
            NSTLoss()(feat, torch.tensor(case[f'at__feat_t{i}']).to(dtype))
            for i, feat in zip(stages, feats_S, strict=True)
        )
        expected = torch.tensor(case['nst__loss_f64'])
        assert_close(value.double(), expected, rtol=rtol, atol=0)
        for i, gradient in zip(
            stages, torch.autograd.grad(value, feats_S), strict=True
        ):
            expected = torch.tensor(case[f'nst__grad_feat_s{i}_f64'])
            assert_close(
                gradient.double(),
                expected,
                rtol=rtol,
                atol=rtol * expected.abs().max().item(),
            )
    assert len(cases) == 3


@pytest.mark.parametrize('size', [2, 5])
def test_blind_to_order_and_scale_of_channels(seed, size):
    preds_S, preds_T = torch.randn(2, 3, 5, size, size, dtype=torch.float64)
    value = NSTLoss()(preds_S, preds_T)
    scales = torch.tensor([1e-3, 7.0, -1.0, 1e6, 2.0]).double()
    changed = scales.view(1, 5, 1, 1) * preds_S[:, [3, 0, 4, 1, 2]]
    assert_close(NSTLoss()(changed, preds_T), value)
    # Twice the same channels are the same distribution.
    assert NSTLoss()(preds_T.repeat(1, 2, 1, 1), preds_T).abs() < 1e-15
    assert value > 0.01


@pytest.mark.parametrize('size', [2, 5])
def test_silent_channel_is_left_alone(seed, size):
    preds_S = torch.randn(2, 4, size, size)
    preds_S[:, 1] = 0
    preds_S.requires_grad_()
    NSTLoss()(preds_S, torch.randn(2, 4, size, size)).backward()
    assert (preds_S.grad[:, 1] == 0).all()
    assert (preds_S.grad[:, 0] != 0).any()
