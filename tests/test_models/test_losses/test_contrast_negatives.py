"""Negatives against a generator of plain integers, and what they are."""

import pytest
import torch
from contracts.contrast import draws_reference, negatives_reference

from mmkd_plugin.models.losses.contrast_negatives import (
    contrast_indices,
    counter_draws,
)

# Classes of 5, 2, 3 and 1 samples, mixed.
LABELS = [4, 0, 4, 1, 0, 4, 1, 9, 4, 1, 4]
SIZE = len(LABELS)


def spans():
    labels = torch.tensor(LABELS)
    order = labels.argsort(stable=True)
    sorted_labels = labels[order].tolist()
    first = torch.tensor([sorted_labels.index(label) for label in LABELS])
    count = torch.tensor([LABELS.count(label) for label in LABELS])
    return order, first, count


def draw(samples, seed=3, step=5, num_negatives=40, by_class=True):
    return contrast_indices(
        seed,
        step,
        torch.tensor(samples),
        num_negatives,
        SIZE,
        spans() if by_class else None,
    )


@pytest.mark.parametrize('seed', [0, 1, 2**31 - 1, 2**63, -5])
@pytest.mark.parametrize('step', [0, 1, 123_456_789_012])
def test_numbers_of_the_generator(seed, step):
    samples, below = [0, 1, 49_999, 16_777_215], [1, 2, 49_500, 2**31 - 1]
    found = counter_draws(
        seed, step, torch.tensor(samples), 7, torch.tensor(below)
    )
    assert found.dtype == torch.int64
    assert found.tolist() == [
        draws_reference(seed, step, sample, 7, top)
        for sample, top in zip(samples, below, strict=True)
    ]


@pytest.mark.parametrize('by_class', [True, False])
def test_indices_of_samples(by_class):
    samples = [10, 0, 7, 3]
    assert draw(samples, by_class=by_class).tolist() == [
        [i, *negatives_reference(3, 5, i, 40, SIZE, LABELS)]
        if by_class
        else [i, *negatives_reference(3, 5, i, 40, SIZE)]
        for i in samples
    ]


@pytest.mark.parametrize('by_class', [True, False])
def test_all_others_are_drawn_alike(by_class):
    count = 20_000
    drawn = draw(range(SIZE), num_negatives=count, by_class=by_class)
    assert drawn[:, 0].tolist() == list(range(SIZE))
    for sample, row in enumerate(drawn[:, 1:]):
        others = [
            i
            for i in range(SIZE)
            if (LABELS[i] != LABELS[sample] if by_class else i != sample)
        ]
        counts = row.bincount(minlength=SIZE)
        assert counts[others].sum() == count
        expected = count / len(others)
        chi2 = (counts[others] - expected).square().sum() / expected
        # At most 9 degrees of freedom: beyond it once in a million.
        assert chi2 < 45


def test_they_depend_on_the_position_alone():
    whole = draw([4, 9, 2])
    assert torch.equal(draw([2]), whole[2:])
    assert torch.equal(draw([9, 9, 4]), whole[[1, 1, 0]])
    for other in (draw([4, 9, 2], seed=4), draw([4, 9, 2], step=6)):
        for mine, theirs in zip(whole, other, strict=True):
            assert (mine[1:] != theirs[1:]).sum() > 20
    # Samples of one class have the same candidates, but streams of their own.
    assert (draw([0])[:, 1:] != draw([2])[:, 1:]).sum() > 20
    # Seed and step do not make up for each other.
    assert not torch.equal(draw([4], seed=4, step=5), draw([4], 3, 6))


def test_streams_are_independent():
    """Of neighbouring samples, steps, seeds and places."""
    index, top = torch.arange(600), torch.full((600,), 2**20)
    base = counter_draws(3, 5, index, 600, top).double()
    others = dict(
        step=counter_draws(3, 6, index, 600, top).double(),
        seed=counter_draws(4, 5, index, 600, top).double(),
        sample=base.roll(1, 0),
        place=base.roll(1, 1),
        both=base.roll((1, 1), (0, 1)),
    )
    for name, other in others.items():
        pair = torch.stack([base.flatten(), other.flatten()])
        # Of 360,000 pairs: the deviation is 1 / 600.
        assert pair.corrcoef()[0, 1].abs() < 5 / 600, name
    # No number is there more often than by chance.
    assert len(base.unique()) > 290_000


def test_no_sample():
    empty = contrast_indices(
        3, 5, torch.zeros(0, dtype=torch.long), 4, SIZE, spans()
    )
    assert empty.shape == (0, 5)
