import pytest
import torch
from mmengine.logging import MessageHub
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from mmkd_plugin.models import (
    ConfigurableDistiller,
    PredictionStore,
    PSKDLoss,
    kl_divergence,
    pskd_loss,
)

LABELS = torch.tensor([0, 4, 3, 3])


@pytest.fixture
def batch(seed):
    """Logits, past probabilities, labels."""
    logits = 2 * torch.randn(2, 4, 5, dtype=torch.float64)
    return logits[0].requires_grad_(), logits[1].softmax(1), LABELS


def test_ends(batch):
    preds_S, past, labels = batch
    assert_close(pskd_loss(*batch, alpha=0), cross_entropy(preds_S, labels))
    entropy = -(past * past.log()).sum(1).mean()
    assert_close(
        pskd_loss(*batch, alpha=1),
        kl_divergence(preds_S, past.log()) + entropy,
    )


def test_a_share_in_between_is_the_mixture_of_both(batch):
    now, then = pskd_loss(*batch, alpha=0), pskd_loss(*batch, alpha=1)
    assert_close(pskd_loss(*batch, alpha=0.3), 0.7 * now + 0.3 * then)
    assert_close(pskd_loss(*batch), 0.2 * now + 0.8 * then)


def test_gradient_is_the_gap_to_the_target(batch):
    preds_S, past, labels = batch
    (gradient,) = torch.autograd.grad(
        pskd_loss(*batch, alpha=0.3, reduction='sum'), preds_S
    )
    target = 0.3 * past + 0.7 * torch.eye(5, dtype=torch.float64)[labels]
    assert_close(gradient, preds_S.softmax(1) - target)


def test_share_of_the_past(batch):
    loss = PSKDLoss(alpha=0.25, loss_weight=2.0)
    assert loss(*batch) == 2 * pskd_loss(*batch, alpha=0.25)


def test_share_by_a_schedule(batch):
    """The published one, of the epoch that the runner is in."""
    loss = PSKDLoss(alpha=dict(type='LinearRamp', stop=0.8, end=10))
    name = 'hub of a share'
    # A new one: that of another test may say that a run goes on.
    hub = MessageHub.get_instance(name)
    try:
        with pytest.raises(RuntimeError, match='no runner of mmengine'):
            loss(*batch)
        for epoch in (0, 4, 9):
            hub.update_info_dict(
                dict(loop_stage='train', epoch=epoch, iter=7, max_epochs=10)
            )
            share = 0.8 * (epoch + 1) / 10
            assert_close(loss(*batch), pskd_loss(*batch, alpha=share))
    finally:
        del MessageHub._instance_dict[name]


def test_share_without_a_runner(batch):
    """By what the distiller is told, as its other schedules."""
    distiller = ConfigurableDistiller(
        student_recorders=dict(fc=dict(type='ModuleOutputs', source='fc')),
        distill_losses=dict(
            loss_pskd=dict(
                type='PSKDLoss',
                alpha=dict(type='LinearRamp', stop=0.8, end=10),
            )
        ),
        loss_forward_mappings=dict(
            loss_pskd=dict(
                preds_S=dict(from_student=True, recorder='fc'),
                past_probs=dict(from_batch='past_probs'),
                gt_labels=dict(from_batch='gt_label'),
            )
        ),
    )
    loss = distiller.distill_losses['loss_pskd']
    for epoch in (0, 4, 9):
        distiller.set_progress(epoch=epoch)
        share = 0.8 * (epoch + 1) / 10
        assert_close(loss(*batch), pskd_loss(*batch, alpha=share))
    distiller.set_progress()
    name = 'hub of no run'
    MessageHub.get_instance(name)
    try:
        with pytest.raises(RuntimeError, match='no runner of mmengine'):
            loss(*batch)
    finally:
        del MessageHub._instance_dict[name]


def test_a_schedule_out_of_range(batch):
    loss = PSKDLoss(alpha=0.5)
    loss.alpha = lambda epoch, iteration: 1.5
    name = 'hub of a share'
    hub = MessageHub.get_instance(name)
    try:
        hub.update_info_dict(
            dict(loop_stage='train', epoch=0, iter=7, max_epochs=10)
        )
        with pytest.raises(ValueError, match=r'alpha must be .* got 1\.5'):
            loss(*batch)
    finally:
        del MessageHub._instance_dict[name]


def test_past_of_a_store(batch):
    """Labels alone for what was never seen, then what was said of it."""
    preds_S, past, labels = batch
    store = PredictionStore(9, 5)
    index = torch.tensor([8, 0, 3, 5])
    first = pskd_loss(preds_S, store.read(index, labels), labels)
    assert_close(first, cross_entropy(preds_S, labels))
    store.write(index, past.log())
    second = pskd_loss(preds_S, store.read(index, labels), labels)
    assert_close(second, pskd_loss(preds_S, past, labels), rtol=1e-6, atol=0)


def test_half_precision_past(batch):
    preds_S, past, labels = batch
    exact = pskd_loss(*batch)
    for dtype in (torch.float16, torch.bfloat16):
        value = pskd_loss(preds_S, past.to(dtype), labels)
        assert value.dtype == torch.float64
        assert_close(value, exact, rtol=5e-3, atol=0)
