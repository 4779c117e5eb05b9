import math

import pytest
import torch
from contracts.relation import relation_reference
from torch.testing import assert_close

from mmkd_plugin.models import ClassDropMask, StructuredRelationLoss


@pytest.fixture
def logits(seed):
    """Student's and teacher's, float64, of 6 samples and 10 classes."""
    return (
        torch.randn(6, 10, dtype=torch.float64, requires_grad=True),
        3 * torch.randn(6, 10, dtype=torch.float64),
    )


def value_and_gradient(preds_S, value):
    (gradient,) = torch.autograd.grad(value, preds_S)
    return value, gradient


def angle_part(feature):
    """Cosines of all angles between three samples, from the formula."""
    count = len(feature)
    out = torch.zeros(count, count, count, dtype=feature.dtype)
    for i in range(count):
        for j in range(count):
            for k in range(count):
                a, b = feature[j] - feature[i], feature[k] - feature[i]
                length = a.norm() * b.norm()
                if length > 0:
                    out[i, j, k] = a.dot(b) / length
    return out


def test_golden_vectors_of_relational_distillation(golden):
    """Distances on raw features are RKD's; its angles are taken off."""
    compared = 0
    for case in golden('rkd'):
        if case['squared']:
            continue
        feat_S = torch.tensor(case['feat_s']).double().requires_grad_()
        feat_T = torch.tensor(case['feat_t']).double()
        angles = torch.nn.functional.smooth_l1_loss(
            angle_part(feat_S), angle_part(feat_T)
        )
        loss = StructuredRelationLoss(
            space='logit', loss_weight=case['distance_weight'].item()
        )
        total = loss(feat_S, feat_T) + case['angle_weight'].item() * angles
        if len(feat_S.unique(dim=0)) < len(feat_S):
            # RKD's diagonal counts as zero and equal samples as 1e-6, so
            # that its mean leaves out the former alone.
            continue
        compared += 1
        value, gradient = value_and_gradient(feat_S, total)
        assert_close(value, torch.tensor(case['loss_f64']), rtol=1e-9, atol=0)
        assert_close(
            gradient,
            torch.tensor(case['grad_feat_s_f64']),
            rtol=1e-7,
            atol=1e-10,
        )
    assert compared


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('space', ['prob', 'logit'])
def test_no_relations_in_small_batches(logits, count, space):
    preds_S, preds_T = logits
    value, gradient = value_and_gradient(
        preds_S,
        StructuredRelationLoss(space=space)(preds_S[:count], preds_T[:count]),
    )
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize('space', ['prob', 'logit'])
def test_duplicates(logits, space):
    """Pairs without distance count in the mean, and have a gradient of 0."""
    preds_S, preds_T = (x.detach()[[0, 0, 1, 2, 2]] for x in logits)
    preds_S.requires_grad_()
    loss = StructuredRelationLoss(space=space)
    value, gradient = value_and_gradient(preds_S, loss(preds_S, preds_T))
    expected = relation_reference(preds_S, preds_T, space=space)
    assert math.isclose(value.item(), expected, rel_tol=1e-12)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize('space', ['prob', 'logit'])
def test_all_samples_identical(logits, space):
    """They have the relations 0: no noise is distilled."""
    preds_S, preds_T = (x.detach() for x in logits)
    loss = StructuredRelationLoss(space=space)
    same = preds_S[:1].repeat(6, 1).requires_grad_()
    for target in (preds_T[:1].repeat(6, 1), preds_T):
        value, gradient = value_and_gradient(same, loss(same, target))
        expected = relation_reference(same, target, space=space)
        assert math.isclose(value.item(), expected, abs_tol=1e-12)
        assert (gradient == 0).all()
    assert loss(same, preds_T[:1].repeat(6, 1)) == 0
    assert loss(preds_S, preds_T[:1].repeat(6, 1)) > 0


def test_student_that_is_the_masked_teacher(logits):
    _, preds_T = logits
    target = ClassDropMask(drop_ratio=0.5)(preds_T)
    nearly = target.masked_fill(target.isneginf(), -1e4).requires_grad_()
    value, gradient = value_and_gradient(
        nearly, StructuredRelationLoss()(nearly, target)
    )
    assert value == 0
    assert (gradient == 0).all()
    # The unmasked teacher has other relations.
    assert StructuredRelationLoss()(nearly, preds_T) > 1e-4


def test_order_of_samples_and_classes_is_nothing(logits):
    preds_S, preds_T = logits
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for space in ('prob', 'logit'):
        loss = StructuredRelationLoss(space=space)
        expected = loss(preds_S, preds_T)
        assert_close(loss(preds_S[order], preds_T[order]), expected)
        assert_close(loss(preds_S.flip(1), preds_T), expected)
        # But whose relation it is matters.
        assert not torch.isclose(loss(preds_S[order], preds_T), expected)


def test_scale_is_nothing_in_logit_space(logits):
    preds_S, preds_T = logits
    loss = StructuredRelationLoss(space='logit')
    expected = loss(preds_S, preds_T)
    assert_close(loss(0.01 * preds_S, 100 * preds_T), expected)
    assert_close(loss(preds_S, preds_S * 3), torch.zeros_like(expected))
    assert StructuredRelationLoss()(preds_S, 3 * preds_S) > 1e-6


def test_shift_of_a_samples_logits(logits):
    """Nothing to its probabilities, hence to their distances."""
    preds_S, preds_T = logits
    shift = torch.arange(6.0, dtype=torch.float64)[:, None]
    loss = StructuredRelationLoss()
    assert_close(loss(preds_S + shift, preds_T - shift), loss(*logits))
    loss = StructuredRelationLoss(space='logit')
    assert not torch.isclose(loss(preds_S + shift, preds_T), loss(*logits))


def test_mean_distance_has_a_gradient(logits):
    """To move along its own scale does not change the loss."""
    preds_S, preds_T = logits
    _, gradient = value_and_gradient(
        preds_S, StructuredRelationLoss(space='logit')(preds_S, preds_T)
    )
    centred = preds_S.detach() - preds_S.detach().mean(dim=0)
    assert (gradient * centred).sum().abs() < 1e-12
    assert gradient.abs().max() > 1e-3


def test_common_offset_does_not_cancel(seed):
    """In float32, where products of the samples would lose all digits."""
    preds_S, preds_T = torch.randn(2, 8, 5)
    loss = StructuredRelationLoss(space='logit')
    exact = loss(preds_S.double(), preds_T.double())
    shifted = loss(preds_S + 1000, preds_T + 1000)
    assert_close(shifted.double(), exact, rtol=1e-3, atol=0)


def test_large_gaps_count_linearly(seed):
    """The Huber loss: one far sample, whose relations are over 1."""
    preds_T = torch.zeros(12, 2)
    preds_T[:, 0] = torch.arange(12.0)
    preds_S = preds_T.clone()
    preds_S[-1, 0] = 500.0
    value = StructuredRelationLoss(space='logit')(preds_S, preds_T)
    expected = relation_reference(preds_S, preds_T, space='logit')
    assert math.isclose(value.item(), expected, rel_tol=1e-5)
    squared = torch.nn.functional.mse_loss
    # With squares alone it would be far more.
    rows = [
        torch.cdist(x, x) / (torch.cdist(x, x).sum() / 132)
        for x in (preds_S, preds_T)
    ]
    assert value < 0.5 * (squared(*rows) / 2)


def test_widths_may_differ_and_maps_are_flattened(seed):
    preds_S, preds_T = torch.randn(4, 3, 2, 2), torch.randn(4, 7)
    value = StructuredRelationLoss(space='logit')(preds_S, preds_T)
    expected = relation_reference(preds_S.flatten(1), preds_T, space='logit')
    assert math.isclose(value.item(), expected, rel_tol=1e-5)


def test_masked_logits_are_looked_for_once_only(logits):
    """A look at every batch would wait for the device."""
    preds_S, preds_T = (x.detach() for x in logits)
    loss = StructuredRelationLoss(space='logit')
    loss(preds_S, preds_T)
    masked = ClassDropMask()(preds_T)
    assert not loss(preds_S, masked).isfinite()
    with pytest.raises(ValueError, match='ClassDropMask connector off its'):
        StructuredRelationLoss(space='logit')(preds_S, masked)
    assert StructuredRelationLoss()(preds_S, masked).isfinite()
