import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import ClassDropMask, class_drop_mask

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def dropped(connector, logits, **kwargs):
    return connector(logits, **kwargs).isneginf()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    ('options', 'count'),
    [
        ({}, 50),
        (dict(drop_ratio=0.29), 29),
        (dict(drop_ratio=0.57), 57),
        (dict(drop_ratio=0.999), 99),
        (dict(drop_ratio=0.0), 0),
        (dict(num_dropped=0), 0),
        (dict(num_dropped=3.0), 3),
        (dict(num_dropped=99), 99),
    ],
)
def test_count_is_exact_under_ties(seed, dtype, options, count):
    connector = ClassDropMask(**options)
    for logits in (
        torch.zeros(4, 100),
        torch.randint(3, (4, 100)).float(),
        torch.randn(4, 100),
    ):
        assert (dropped(connector, logits.to(dtype)).sum(dim=1) == count).all()


def test_shares_round_down_whatever_the_floats():
    for classes in (10, 100, 1000):
        for number in range(classes):
            mask = class_drop_mask(
                torch.zeros(1, classes), drop_ratio=number / classes
            )
            assert mask.sum() == number


def test_kept_are_not_below_dropped(seed):
    logits = torch.randint(4, (5, 20)).float()
    mask = dropped(ClassDropMask(drop_ratio=0.6), logits)
    for row, gone in zip(logits, mask, strict=True):
        assert row[gone].max() <= row[~gone].min()


def test_kept_logits_are_untouched(seed):
    logits = torch.randn(5, 20, dtype=torch.float16)
    masked = ClassDropMask()(logits)
    assert masked.dtype == torch.float16
    kept = ~masked.isneginf()
    assert torch.equal(masked[kept], logits[kept])
    assert not logits.isneginf().any()


def test_softmax_renormalises(seed):
    logits = torch.randn(5, 20, dtype=torch.float64)
    probs = ClassDropMask(drop_ratio=0.5)(logits).softmax(dim=1)
    assert_close(probs.sum(dim=1), torch.ones(5, dtype=torch.float64))
    assert ((probs == 0).sum(dim=1) == 10).all()


def test_temperature_does_not_change_the_mask(seed):
    logits = torch.randn(5, 20)
    connector = ClassDropMask(drop_ratio=0.5)
    expected = dropped(connector, logits)
    assert torch.equal(dropped(connector, logits / 4), expected)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    'logits',
    [
        torch.zeros(3, 100),
        1e4 * torch.eye(3, 100),
        -1e4 * torch.eye(3, 100),
        torch.ones(3, 1),
    ],
)
def test_threshold_keeps_the_most_probable(logits, dtype):
    """Though no class of a flat distribution reaches the threshold."""
    for min_prob in (0.02, 0.999):
        logits = logits.to(dtype)
        mask = dropped(ClassDropMask(min_prob=min_prob), logits)
        kept = (~mask).sum(dim=1)
        assert (kept >= 1).all()
        best = logits.argmax(dim=1, keepdim=True)
        assert not mask.gather(1, best).any()


def test_threshold():
    probs = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    for min_prob, kept in [(0.01, 4), (0.1, 3), (0.2, 2), (0.4, 1), (0.9, 1)]:
        mask = dropped(ClassDropMask(min_prob=min_prob), probs.log())
        assert mask.tolist() == [[False] * kept + [True] * (4 - kept)]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_threshold_does_not_depend_on_the_precision(seed, dtype):
    """1000 classes of 0.001 each: a softmax in half precision rounds."""
    logits = torch.randn(20, 1000).to(dtype)
    connector = ClassDropMask(min_prob=0.001)
    expected = dropped(connector, logits.double())
    assert torch.equal(dropped(connector, logits), expected)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(dropped(connector, logits), expected)


@pytest.mark.parametrize('classes', [1, 2, 5])
def test_never_drops_all(classes):
    logits = torch.zeros(2, classes)
    for ratio in (0.5, 0.9, 0.999999):
        mask = dropped(ClassDropMask(drop_ratio=ratio), logits)
        assert not mask.all(dim=1).any()
    for number in (classes, classes + 1):
        with pytest.raises(
            ValueError, match=f'leave a class, but {number} of {classes}'
        ):
            ClassDropMask(num_dropped=number)(logits)
    with pytest.raises(ValueError, match='leave a class'):
        # So near to 1 that it rounds to all of them.
        ClassDropMask(drop_ratio=1 - 1e-12)(torch.zeros(2, 1000))


def test_reference_decides(seed):
    student, teacher = torch.randn(2, 5, 20)
    connector = ClassDropMask(drop_ratio=0.5)
    mask = dropped(connector, student, reference=teacher)
    assert torch.equal(mask, dropped(connector, teacher))
    assert not torch.equal(mask, dropped(connector, student))


def test_gradient_reaches_the_kept_alone(seed):
    student = torch.randn(5, 20, requires_grad=True)
    teacher = torch.randn(5, 20, requires_grad=True)
    masked = ClassDropMask()(student, reference=teacher)
    masked.softmax(dim=1).pow(2).sum().backward()
    assert (student.grad[masked.isneginf()] == 0).all()
    assert (student.grad[~masked.isneginf()] != 0).all()
    assert teacher.grad is None


def test_empty_batch():
    for connector in (ClassDropMask(), ClassDropMask(min_prob=0.1)):
        assert connector(torch.zeros(0, 5)).shape == (0, 5)
