import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torch.testing import assert_close

from mmkd_plugin.models import ConfigurableDistiller, VIDLoss


def published(case, dtype):
    """Build the loss and its regressor with the weights of a case."""
    weights = [case[f'regressor__{i}_weight'] for i in (0, 2, 4)]
    widths = [weights[0].shape[1], *(len(w) for w in weights)]
    relu = dict(type='ReLU')
    distiller = ConfigurableDistiller(
        student_recorders=dict(out=dict(type='ModuleOutputs', source='')),
        teacher_recorders=dict(out=dict(type='ModuleOutputs', source='')),
        connectors=dict(
            mean=[
                dict(
                    type='ConvConnector',
                    in_channels=widths[i],
                    out_channels=widths[i + 1],
                    act_cfg=relu if i < 2 else None,
                )
                for i in range(3)
            ]
        ),
        distill_losses=dict(
            loss_vid=dict(
                type='VIDLoss',
                num_channels=widths[-1],
                eps=case['eps'].item(),
            )
        ),
        loss_forward_mappings=dict(
            loss_vid=dict(
                preds_S=dict(
                    from_student=True, recorder='out', connector='mean'
                ),
                preds_T=dict(from_student=False, recorder='out'),
            )
        ),
    ).to(dtype)
    regressor, loss = distiller.connectors['mean'], distiller.distill_losses
    # The optimizer and the checkpoint of the algorithm have it.
    assert 'distill_losses.loss_vid.log_scale' in distiller.state_dict()
    assert any(p is loss['loss_vid'].log_scale for p in distiller.parameters())
    with torch.no_grad():
        for block, weight in zip(regressor, weights, strict=True):
            block.conv.conv.weight.copy_(torch.tensor(weight))
            block.conv.conv.bias.zero_()
        loss['loss_vid'].log_scale.copy_(torch.tensor(case['log_scale']))
    return regressor, loss['loss_vid']


@pytest.mark.parametrize(
    ('dtype', 'rtol'), [(torch.float64, 1e-9), (torch.float32, 2e-5)]
)
def test_golden_vectors(golden, dtype, rtol):
    cases = golden('vid')
    for case in cases:
        feat_S = torch.tensor(case['feat_s']).to(dtype).requires_grad_()
        feat_T = torch.tensor(case['feat_t']).to(dtype)
        regressor, loss = published(case, dtype)
        # The published code pools in front of its regressor.
        pooled = adaptive_avg_pool2d(feat_S, feat_T.shape[2:])
        value = loss(regressor(pooled), feat_T)
        expected = torch.tensor(case['loss_f64'])
        assert_close(value.double(), expected, rtol=rtol, atol=0)
        gradients = torch.autograd.grad(value, [feat_S, loss.log_scale])
        for gradient, key in zip(
            gradients, ('feat_s', 'log_scale'), strict=True
        ):
            expected = torch.tensor(case[f'grad_{key}_f64'])
            assert_close(
                gradient.double(),
                expected,
                rtol=rtol,
                atol=rtol * expected.abs().max().item(),
            )
    assert len(cases) == 2


def test_is_a_normal_log_likelihood(seed):
    mean, value = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    loss = VIDLoss(num_channels=3, init_variance=2.5).double()
    normal = torch.distributions.Normal(mean, 2.5**0.5)
    expected = -normal.log_prob(value).mean() - 0.5 * torch.log(
        torch.tensor(2 * torch.pi)
    )
    # The parameter was made in float32.
    assert_close(loss(mean, value), expected, rtol=1e-6, atol=0)


def test_the_best_variance_is_that_of_the_channel(seed):
    preds_S, preds_T = torch.randn(2, 64, 2, 3, 3)
    preds_T[:, 1] *= 3
    loss = VIDLoss(num_channels=2)
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=60)

    def closure():
        optimizer.zero_grad()
        value = loss(preds_S, preds_T)
        value.backward()
        return value

    optimizer.step(closure)
    variance = torch.nn.functional.softplus(loss.log_scale) + loss.eps
    expected = (preds_S - preds_T).square().mean(dim=(0, 2, 3))
    assert_close(variance, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize('variance', [1e-4, 1.0, 1e4])
def test_variance_before_training(variance):
    loss = VIDLoss(num_channels=2, init_variance=variance)
    assert loss.log_scale.isfinite().all()
    made = torch.nn.functional.softplus(loss.log_scale) + loss.eps
    assert_close(made, torch.full((2,), variance), rtol=1e-5, atol=0)


def test_empty_batch_reaches_the_variance():
    """DDP waits for a gradient of every parameter."""
    loss = VIDLoss(num_channels=2)
    loss(torch.zeros(0, 2, 3, 3), torch.zeros(0, 2, 3, 3)).backward()
    assert loss.log_scale.grad.tolist() == [0.0, 0.0]
