import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import ATLoss


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
        loss = ATLoss(p=case['at__p'].item())
        value = sum(
            loss(feat, torch.tensor(case[f'at__feat_t{i}']).to(dtype))
            for i, feat in zip(stages, feats_S, strict=True)
        )
        expected = torch.tensor(case['at__loss_f64'])
        assert_close(value.double(), expected, rtol=rtol, atol=0)
        for i, gradient in zip(
            stages, torch.autograd.grad(value, feats_S), strict=True
        ):
            expected = torch.tensor(case[f'at__grad_feat_s{i}_f64'])
            assert_close(
                gradient.double(),
                expected,
                rtol=rtol,
                atol=rtol * expected.abs().max().item(),
            )
    assert len(cases) == 3


def test_blind_to_scale_and_rotation(seed):
    preds_S, preds_T = torch.randn(2, 3, 5, 4, 4, dtype=torch.float64)
    value = ATLoss()(preds_S, preds_T)
    scales = torch.tensor([1e-3, 7.0, -1e6]).double().view(3, 1, 1, 1)
    assert_close(ATLoss()(scales * preds_S, preds_T), value)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    rotated = torch.einsum('dc,nchw->ndhw', rotation, preds_S)
    assert_close(ATLoss()(rotated, preds_T), value)
    # A rotation is seen by any other exponent.
    assert ATLoss(p=4)(rotated, preds_T) != ATLoss(p=4)(preds_S, preds_T)
    assert ATLoss()(-3 * preds_T, preds_T) < 1e-30


@pytest.mark.parametrize('p', [1.0, 2.0, 4.0])
def test_silent_sample_is_left_alone(p):
    preds_S = torch.zeros(2, 3, 2, 2)
    preds_S[1] = 1e9
    preds_S.requires_grad_()
    value = ATLoss(p=p)(preds_S, torch.eye(2).expand(2, 3, 2, 2))
    value.backward()
    # Four places of 1 / 2, against two of 1 / sqrt(2).
    equal = 2 * (0.5**0.5 - 0.5) ** 2 + 2 * 0.25
    assert_close(value.item(), (1.0 + equal) / 8, rtol=1e-6, atol=0)
    assert (preds_S.grad[0] == 0).all()
    assert preds_S.grad.isfinite().all()
