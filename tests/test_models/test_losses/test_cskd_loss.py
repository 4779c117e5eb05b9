"""Pairs in one batch; the form with two passes is in the contract."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import CSKDLoss, cskd_loss, kl_divergence

LABELS = torch.tensor([4, 4, 0, 0, 4, 4])


@pytest.fixture
def logits(seed):
    return 2 * torch.randn(6, 5, dtype=torch.float64)


@pytest.mark.parametrize('reduction', ['batchmean', 'sum', 'none'])
def test_second_images_teach_first_ones(logits, reduction):
    logits.requires_grad_()
    value = cskd_loss(logits, gt_labels=LABELS, tau=3.0, reduction=reduction)
    expected = kl_divergence(
        logits[[0, 2, 4]], logits[[1, 3, 5]], 3.0, reduction
    )
    assert_close(value, expected, rtol=0, atol=0)
    value.sum().backward()
    assert (logits.grad[0::2].abs().sum(1) > 1e-3).all()
    assert logits.grad[1::2].abs().max() == 0


def test_batches_of_ranks_make_a_joint_batch(logits):
    loss = CSKDLoss()
    ranks = [logits[:2], logits[2:4], logits[4:]]
    labels = LABELS.split(2)
    parts = [
        loss(rank, gt_labels=label)
        for rank, label in zip(ranks, labels, strict=True)
    ]
    assert_close(
        torch.stack(parts).mean(),
        loss(logits, gt_labels=LABELS),
        rtol=1e-12,
        atol=0,
    )


def test_equal_answers(logits):
    pairs = logits[:3].repeat_interleave(2, dim=0).requires_grad_()
    value = cskd_loss(pairs, gt_labels=LABELS)
    value.backward()
    assert value.abs() < 1e-14
    assert pairs.grad.abs().max() < 1e-14


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_extremes(dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0, 0], [1e4, 0]])
    logits = logits.to(dtype).requires_grad_()
    value = CSKDLoss()(logits, gt_labels=torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert logits.grad.isfinite().all()
    assert logits.grad.dtype == dtype


def test_no_pairs_are_a_zero_on_the_graph():
    logits = torch.zeros(0, 5, requires_grad=True)
    value = CSKDLoss()(logits, gt_labels=LABELS[:0])
    value.backward()
    assert value == 0
    assert logits.grad.shape == (0, 5)


def test_other_orders_are_refused(logits):
    """First images, then second ones: the published code's batch."""
    loss = CSKDLoss()
    order = [0, 2, 4, 1, 3, 5]
    for _ in range(2):
        with pytest.raises(ValueError, match='got 4 and 0 in the first of 2'):
            loss(logits[order], gt_labels=LABELS[order])
    # Also when good batches came before it.
    loss(logits, gt_labels=LABELS)
    with pytest.raises(ValueError, match='got 4 and 0 in the first of 2'):
        loss(logits[order], gt_labels=LABELS[order])


def test_copies_after_a_step(logits):
    loss = CSKDLoss(tau=2.0)
    value = loss(logits, gt_labels=LABELS)
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert copied(logits, gt_labels=LABELS) == value
