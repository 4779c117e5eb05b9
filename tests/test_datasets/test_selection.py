"""The rules by which unlabeled images are chosen."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mmkd_plugin.datasets.scoring import Scores, score_logits
from mmkd_plugin.datasets.selection import (
    ORDERS,
    THRESHOLDS,
    select,
    select_by_entropy,
)


def make_scores(uncertainty, predicted=None, num_classes=10):
    uncertainty = np.asarray(uncertainty, dtype=np.float64)
    if predicted is None:
        predicted = np.zeros(len(uncertainty), dtype=np.int64)
    return Scores(
        uncertainty=uncertainty,
        entropy=2 * uncertainty,
        predicted=np.asarray(predicted, dtype=np.int64),
        num_classes=num_classes,
    )


def synthetic(num=20_000, num_classes=10, seed=0):
    """Scores of logits, some of them sure and some of them not."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, num_classes))
    logits[np.arange(num), rng.integers(0, num_classes, num)] += rng.gamma(
        2, 4, num
    )
    uncertainty, entropy, predicted = score_logits(torch.tensor(logits))
    return Scores(
        uncertainty.numpy(), entropy.numpy(), predicted.numpy(), num_classes
    )


def share(gamma, count):
    """ceil(gamma count), with gamma as it is written."""
    return math.ceil(Fraction(str(gamma)) * count)


def reference(scores, num_samples, gamma, threshold, order):
    """X' and X'' from their definitions, image by image."""
    u = scores.uncertainty.tolist()
    labels = scores.predicted.tolist()
    images = range(len(u))
    if threshold in ('quantile', 'class_quantile'):
        groups = [list(images)]
        if threshold == 'class_quantile':
            groups = [
                [i for i in images if labels[i] == label]
                for label in sorted(set(labels))
            ]
        candidates = []
        for group in groups:
            most_confident_first = sorted(u[i] for i in group)
            limit = most_confident_first[share(gamma, len(group)) - 1]
            candidates += [i for i in group if u[i] <= limit]
        candidates.sort()
    else:
        c = [math.exp(-value) for value in u]
        delta = (
            scores.num_classes**-gamma
            if threshold == 'class_prior'
            else (1 - gamma) * max(c) + gamma * sum(c) / len(c)
        )
        candidates = [i for i in images if c[i] >= delta]
    sign = 1 if order == 'confident' else -1
    chosen = sorted(candidates, key=lambda i: (sign * u[i], i))
    if threshold == 'class_quantile':
        place = {}
        for label in set(labels):
            group = [i for i in chosen if labels[i] == label]
            for rank, i in enumerate(group):
                place[i] = (rank + 0.5) / len(group)
        chosen = sorted(candidates, key=lambda i: (place[i], i))
    return candidates, sorted(chosen[:num_samples])


@pytest.mark.parametrize('gamma', [0.07, 0.3, 0.5, 0.8, 0.99])
@pytest.mark.parametrize('order', ['informative', 'confident'])
@pytest.mark.parametrize('threshold', THRESHOLDS)
def test_equals_the_definition(threshold, order, gamma):
    rng = np.random.default_rng(1)
    for num_samples in (1, 13, 40):
        scores = make_scores(
            # rounded, so that there are ties
            np.round(rng.exponential(0.4, 100), 2),
            rng.integers(0, 4, 100),
        )
        found = select(scores, num_samples, gamma, threshold, order)
        candidates, chosen = reference(
            scores, num_samples, gamma, threshold, order
        )
        assert np.flatnonzero(found.candidates).tolist() == candidates
        assert found.indices.tolist() == chosen
        assert found.indices.dtype == np.int64
        assert not found.fallback
        assert (found.gamma, found.threshold, found.order) == (
            gamma,
            threshold,
            order,
        )


def test_delta_is_the_confidence_that_just_passes():
    scores = make_scores([0.5, 0.1, 0.3, 0.2, 0.4], num_classes=4)
    assert select(scores, 1, 0.4).delta == pytest.approx(math.exp(-0.2))
    assert select(scores, 1, 0.41).delta == pytest.approx(math.exp(-0.3))
    prior = select(scores, 1, 0.5, 'class_prior')
    assert prior.delta == pytest.approx(0.5)
    mixed = select(scores, 1, 0.25, 'mean_max')
    mean = sum(math.exp(-u / 10) for u in range(1, 6)) / 5
    assert mixed.delta == pytest.approx(0.75 * math.exp(-0.1) + 0.25 * mean)
    # the lowest over the classes
    two = make_scores([0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1])
    lowest = select(two, 1, 0.5, 'class_quantile')
    assert lowest.delta == pytest.approx(math.exp(-0.7))


@pytest.mark.parametrize('threshold', THRESHOLDS)
def test_the_three_statements_of_the_method(threshold):
    """Larger gamma: lower delta, more information; both ends are left out."""
    scores = synthetic()
    gammas = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    found = [select(scores, 1000, gamma, threshold) for gamma in gammas]
    deltas = [one.delta for one in found]
    assert deltas == sorted(deltas, reverse=True)
    assert deltas[0] > deltas[-1]
    entropies = [scores.entropy[one.indices].mean() for one in found]
    assert entropies == sorted(entropies)
    assert entropies[-1] > 2 * entropies[0]
    for one in found:
        assert one.candidates[one.indices].all()
        assert len(one.indices) == min(1000, one.candidates.sum())
        assert (np.diff(one.indices) > 0).all()
    if threshold == 'quantile':
        u = scores.uncertainty
        middle = u[found[4].indices]
        # neither the least confident half nor the most confident images
        assert middle.max() < np.quantile(u, 0.51)
        assert middle.min() > np.quantile(u, 0.4)


def test_order_confident_does_not_depend_on_gamma():
    scores = synthetic(2000)
    top = np.sort(np.argsort(scores.uncertainty)[:100]).tolist()
    for gamma in (0.2, 0.5, 0.9):
        found = select(scores, 100, gamma, order='confident')
        assert found.indices.tolist() == top


@pytest.mark.parametrize('threshold', THRESHOLDS)
def test_order_random(threshold):
    scores = synthetic(2000)
    one, same, other = (
        select(scores, 200, 0.5, threshold, 'random', seed).indices
        for seed in (3, 3, 4)
    )
    candidates = select(scores, 200, 0.5, threshold).candidates
    assert candidates[one].all()
    assert len(set(one.tolist())) == 200
    assert one.tolist() == same.tolist() != other.tolist()
    # spread over all of X', not one end of it
    u = scores.uncertainty
    below = (u[candidates] < np.median(u[one])).mean()
    assert below == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize('order', ORDERS)
def test_more_samples_than_candidates(order):
    found = select(make_scores([3, 1, 2, 4]), 100, 0.5, order=order)
    assert found.indices.tolist() == [1, 2]


def test_ties_at_the_threshold_belong_to_the_candidates():
    scores = make_scores([5, 1, 1, 1, 1, 0])
    found = select(scores, 3, 0.4)
    # ceil(0.4 * 6) = 3, and a fourth and fifth image are as confident
    assert found.candidates.tolist() == [False, True, True, True, True, True]
    assert found.indices.tolist() == [1, 2, 3]
    confident = select(scores, 3, 0.4, order='confident')
    assert confident.indices.tolist() == [1, 2, 5]


def test_images_that_are_certain_in_float32_are_told_apart():
    margins = torch.arange(60, 20, -2.0)
    logits = torch.zeros(20, 3)
    logits[:, 1] = margins
    assert (logits.softmax(1).max(1).values == 1).all()
    uncertainty, entropy, predicted = score_logits(logits)
    scores = Scores(uncertainty.numpy(), entropy.numpy(), predicted.numpy(), 3)
    assert np.exp(-scores.uncertainty[0]) == 1
    found = select(scores, 4, 0.5)
    # Half of them, 60 to 42; the least certain of these have 48 to 42.
    assert found.indices.tolist() == [6, 7, 8, 9]
    assert np.flatnonzero(found.candidates).tolist() == list(range(10))


def test_class_prior_may_find_nobody():
    # n ** -0.1 = 0.79 with ten classes
    scores = make_scores(-np.log([0.2, 0.7, 0.5, 0.7, 0.3]))
    found = select(scores, 3, 0.1, 'class_prior')
    assert found.fallback
    assert not found.candidates.any()
    assert found.indices.tolist() == [1, 2, 3]
    assert found.delta == pytest.approx(10**-0.1)
    assert select(scores, 9, 0.1, 'class_prior').indices.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize('threshold', ['quantile', 'mean_max'])
def test_equal_confidences_are_never_rounded_away(threshold):
    rng = np.random.default_rng(0)
    for _ in range(500):
        count = int(rng.integers(1, 9))
        scores = make_scores(np.full(count, rng.uniform(0, 2)))
        found = select(scores, 20, rng.uniform(0.01, 0.99), threshold)
        assert not found.fallback
        assert found.indices.tolist() == list(range(count))


@pytest.mark.parametrize('gamma', [0.07, 0.14, 0.28, 0.29, 0.55, 0.57, 0.58])
def test_gamma_times_size_is_meant_as_written(gamma):
    # In floating point some of these products are a little too large.
    scores = make_scores(np.arange(100) / 100)
    found = select(scores, 100, gamma)
    assert found.candidates.sum() == round(100 * gamma)


def test_floating_point_edge_is_one():
    assert math.ceil(0.07 * 100) == 8


@pytest.mark.parametrize('threshold', THRESHOLDS)
@pytest.mark.parametrize('gamma', [1e-12, 0.5, 1 - 1e-12])
def test_one_image(threshold, gamma):
    found = select(make_scores([0.0]), 5, gamma, threshold)
    assert found.indices.tolist() == [0]
    assert found.delta == pytest.approx(1, abs=0.91)


@pytest.mark.parametrize('threshold', THRESHOLDS)
def test_one_class(threshold):
    """A teacher of one class is certain of everything."""
    scores = make_scores(np.zeros(6), num_classes=1)
    found = select(scores, 4, 0.5, threshold)
    assert found.candidates.all()
    assert found.indices.tolist() == [0, 1, 2, 3]
    assert found.delta == 1


@pytest.mark.parametrize('order', ['informative', 'confident'])
def test_class_quantile_gives_each_class_its_share(order):
    # The teacher is far surer of class 0, and sees it far more often.
    rng = np.random.default_rng(0)
    predicted = np.repeat([0, 1, 2], [600, 300, 100])
    uncertainty = rng.exponential(1, 1000) * 10.0 ** -(3 - predicted)
    scores = make_scores(uncertainty, predicted)
    found = select(scores, 250, 0.5, 'class_quantile', order)
    per_class = np.bincount(predicted[found.candidates]).tolist()
    assert per_class == [300, 150, 50]
    chosen = np.bincount(predicted[found.indices])
    assert np.abs(chosen - [150, 75, 25]).max() <= 1
    # Without it, the sure classes take all.
    plain = select(scores, 250, 0.5, 'quantile', 'confident')
    assert np.bincount(predicted[plain.indices], minlength=3)[2] <= 2


def of_logits(logits):
    logits = torch.as_tensor(logits)
    return Scores(
        *(part.numpy() for part in score_logits(logits)), logits.shape[1]
    )


def test_golden_vectors_of_the_subset_by_entropy(golden):
    for case in golden('mosaic_ood_subset'):
        found = select_by_entropy(of_logits(case['logits']), int(case['k']))
        assert found.indices.tolist() == case['selected_index'].tolist()
        assert found.indices.dtype == np.int64
        # The k-th entropy, by its definition: here nothing underflows.
        p = torch.tensor(case['logits']).double().softmax(1)
        entropy = sorted((-p * p.log()).sum(1).tolist(), reverse=True)
        assert found.min_entropy == pytest.approx(
            entropy[int(case['k']) - 1], rel=1e-12
        )


def entropy_of_two(gap):
    """Of two logits: p log(1 + e^gap) and (1 - p) log(1 + e^-gap)."""
    q = 1 / (1 + math.exp(gap))
    return (1 - q) * math.log1p(math.exp(-gap)) + q * (
        gap + math.log1p(math.exp(-gap))
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_entropy_where_the_softmax_underflows(dtype):
    gaps = [2000, 0, 500, 40, 120, 2, 700]
    logits = torch.zeros(len(gaps), 2, dtype=dtype)
    logits[:, 1] = torch.tensor(gaps)
    p = logits.float().softmax(1)
    # By p log p these are NaN, which a sort takes for the largest.
    assert (p * p.log()).sum(1).isnan().tolist() == [gap > 104 for gap in gaps]
    scores = of_logits(logits)
    assert np.isfinite(scores.entropy).all()
    expected = [0.0 if gap > 709 else entropy_of_two(gap) for gap in gaps]
    assert scores.entropy == pytest.approx(expected, rel=1e-12, abs=0)
    found = select_by_entropy(scores, len(gaps))
    assert [gaps[i] for i in found.indices] == sorted(gaps)
    assert found.min_entropy == 0
    assert select_by_entropy(scores, 3).min_entropy == pytest.approx(
        entropy_of_two(40), rel=1e-12, abs=0
    )


def test_equal_entropies_go_by_position():
    # All of them but one, and the saturated ones of either sign of zero
    logits = torch.zeros(40, 3)
    logits[:, 0] = 2000
    logits[1::2, 1] = 2000
    logits[7] = 1
    order = [7, *range(1, 7, 2), *range(9, 40, 2), *range(0, 40, 2)]
    scores = of_logits(logits)
    for num_samples in (1, 2, 13, 25, 40):
        found = select_by_entropy(scores, num_samples)
        assert found.indices.tolist() == order[:num_samples]
    assert select_by_entropy(scores, 20).min_entropy == pytest.approx(
        math.log(2)
    )


def test_entropy_is_not_the_uncertainty():
    """Half and half has less entropy than 0.6 and the rest spread."""
    p = torch.tensor([[0.5, 0.5, 1e-9, 1e-9, 1e-9], [0.6, *[0.1] * 4]])
    scores = of_logits(p.log())
    assert scores.uncertainty[0] > scores.uncertainty[1]
    assert select_by_entropy(scores, 1).indices.tolist() == [1]


def test_more_images_by_entropy_than_there_are():
    with pytest.raises(ValueError, match='num_samples=4 is more than the 3'):
        select_by_entropy(make_scores([1, 2, 3]), 4)
    found = select_by_entropy(make_scores([1, 2, 3]), 3)
    assert found.indices.tolist() == [2, 1, 0]
