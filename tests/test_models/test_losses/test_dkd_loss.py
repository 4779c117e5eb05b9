import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import DKDLoss, dkd_loss, kl_divergence


@pytest.fixture
def batch(seed):
    """Student's and teacher's logits, float64, and labels."""
    return (
        torch.randn(6, 10, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 10, dtype=torch.float64),
        torch.tensor([0, 9, 3, 3, 1, 7]),
    )


def test_golden_vectors(golden):
    cases = [c for c in golden('logit_losses') if 'dkd__loss_f64' in c]
    assert len(cases) >= 4
    for case in cases:
        preds_S = torch.tensor(case['kd__logits_s']).double().requires_grad_()
        preds_T = torch.tensor(case['kd__logits_t']).double()
        labels = torch.tensor(case['kd__target'])
        loss = DKDLoss(
            alpha=case['dkd__alpha'].item(),
            beta=case['dkd__beta'].item(),
            tau=case['dkd__T'].item(),
        )
        value = loss(preds_S, preds_T, labels)
        (gradient,) = torch.autograd.grad(value, preds_S)
        expected = torch.tensor(case['dkd__loss_f64'])
        assert_close(value, expected, rtol=1e-9, atol=0)
        assert_close(
            gradient,
            torch.tensor(case['dkd__grad_logits_s_f64']),
            rtol=1e-9,
            atol=1e-12,
        )
        single = preds_S.detach().float().requires_grad_()
        value = loss(single, preds_T.float(), labels)
        (gradient,) = torch.autograd.grad(value, single)
        assert_close(value.double(), expected, rtol=2e-5, atol=0)
        wanted = torch.tensor(case['dkd__grad_logits_s_f64'])
        assert (gradient - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_kd_is_tckd_plus_nckd(batch, tau):
    """KD = TCKD + (1 - p_t) NCKD of every sample, the paper's equation 5."""
    preds_S, preds_T, labels = batch
    options = dict(tau=tau, reduction='none')
    whole = kl_divergence(preds_S, preds_T, **options)
    target = dkd_loss(*batch, alpha=1, beta=0, **options)
    others = dkd_loss(*batch, alpha=0, beta=1, **options)
    prob_T = (preds_T / tau).softmax(1).gather(1, labels[:, None]).squeeze(1)
    assert_close(whole, target + (1 - prob_T) * others, rtol=1e-12, atol=0)
    gradients = [
        torch.autograd.grad(v.sum(), preds_S)[0]
        for v in (whole, target + (1 - prob_T) * others)
    ]
    assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_two_classes_have_no_others(batch):
    preds_S, preds_T = (logits[:, :2] for logits in batch[:2])
    labels = batch[2] % 2
    assert dkd_loss(preds_S, preds_T, labels, alpha=0, beta=1) == 0
    assert_close(
        dkd_loss(preds_S, preds_T, labels, alpha=1, beta=8, tau=2.0),
        kl_divergence(preds_S, preds_T, tau=2.0),
        rtol=1e-12,
        atol=0,
    )


def test_invariant_to_a_shift_of_the_logits(batch):
    preds_S, preds_T, labels = batch
    assert_close(
        dkd_loss(preds_S + 7, preds_T - 3, labels),
        dkd_loss(preds_S, preds_T, labels),
        rtol=1e-11,
        atol=0,
    )


@pytest.mark.parametrize('margin', [40.0, 80.0, 500.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_confident_wrong_student(margin, dtype):
    """Where softmax, then log, gives inf: the value is known."""
    preds_S = torch.zeros(1, 4, dtype=dtype)
    preds_S[0, 1] = margin
    preds_T = torch.zeros(1, 4, dtype=dtype)
    preds_T[0, 0] = margin
    preds_S.requires_grad_()
    value = dkd_loss(preds_S, preds_T, torch.tensor([0]), 1.0, 0.0, tau=4.0)
    value.backward()
    m_T = margin / 4 - torch.tensor(3.0, dtype=torch.float64).log()
    m_S = -torch.logsumexp(
        torch.tensor([margin / 4, 0, 0], dtype=torch.float64), 0
    )
    p = m_T.sigmoid()
    softplus = torch.nn.functional.softplus
    expected = 16 * (
        p * (softplus(-m_S) - softplus(-m_T))
        + (-m_T).sigmoid() * (softplus(m_S) - softplus(m_T))
    )
    assert_close(value.double(), expected, rtol=1e-6, atol=0)
    # The target's logit is pulled with the full force, and no NaN.
    force = 4 * (m_S.sigmoid() - p)
    assert_close(preds_S.grad[0, 0].double(), force, rtol=1e-5, atol=0)
    assert preds_S.grad.isfinite().all()


@pytest.mark.parametrize(
    'function', [dkd_loss, lambda s, t, labels: kl_divergence(s, t)]
)
def test_second_derivative(batch, function):
    """The gradient in closed form has a gradient of its own."""
    assert torch.autograd.gradgradcheck(
        lambda preds_S: function(preds_S, *batch[1:]), batch[0]
    )


@pytest.mark.parametrize('label', [1, 0])
def test_teacher_with_one_class_left(label):
    """Sure of the label, or of another class; the rest is dropped."""
    preds_T = torch.full((1, 3), -torch.inf, dtype=torch.float64)
    preds_T[0, 1] = 9
    preds_S = torch.tensor([[0.5, 1.0, 0.0]], dtype=torch.float64)
    log_S = preds_S.log_softmax(1)[0]
    gt_labels = torch.tensor([label])
    target = dkd_loss(preds_S, preds_T, gt_labels, 1.0, 0.0, tau=1.0)
    others = dkd_loss(preds_S, preds_T, gt_labels, 0.0, 1.0, tau=1.0)
    if label == 1:
        assert_close(target, -log_S[1])
        assert others == 0
    else:
        assert_close(target, -torch.log1p(-log_S[0].exp()))
        rest = preds_S[:, 1:].log_softmax(1)
        assert_close(others, -rest[0, 0])


def test_student_alone_without_a_class():
    """An infinite divergence is not hidden."""
    preds_S = torch.tensor([[1.0, 2.0, -torch.inf, 0.0]])
    preds_T = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    for label in (0, 2):
        labels = torch.tensor([label])
        assert dkd_loss(preds_S, preds_T, labels).isposinf()
    assert kl_divergence(preds_S, preds_T).isposinf()


def test_second_derivative_where_one_class_is_left():
    preds_S = torch.tensor([[1.0, -torch.inf, -torch.inf]])
    preds_S.requires_grad_()
    value = dkd_loss(
        preds_S,
        torch.tensor([[0.0, -torch.inf, -torch.inf]]),
        torch.tensor([0]),
    )
    gradients = [
        torch.autograd.grad(
            value, preds_S, create_graph=again, retain_graph=True
        )[0]
        for again in (False, True)
    ]
    assert_close(*gradients)
    assert gradients[0].abs().max() == 0


def test_underflowing_teacher_where_the_student_has_dropped():
    """No 0 * inf: what has probability zero says nothing."""
    preds_S = torch.tensor([[1.0, 2.0, -torch.inf]])
    preds_T = torch.tensor([[0.0, 1.0, -300.0]])
    expected = kl_divergence(preds_S[:, :2], preds_T[:, :2])
    assert_close(kl_divergence(preds_S, preds_T), expected)


def test_compiled(batch):
    compiled = torch.compile(dkd_loss, backend='aot_eager')
    values = [function(*batch) for function in (compiled, dkd_loss)]
    assert_close(*values, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(v, batch[0])[0] for v in values]
    assert_close(*gradients, rtol=1e-12, atol=1e-15)
