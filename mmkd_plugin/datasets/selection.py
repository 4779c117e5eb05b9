"""Which images of an unlabeled heap a teacher can teach with."""

import math
from dataclasses import dataclass

import numpy as np

from .scoring import Scores

THRESHOLDS = ('quantile', 'class_prior', 'mean_max', 'class_quantile')
ORDERS = ('informative', 'random', 'confident')


@dataclass(frozen=True)
class Selection:
    """A choice of images.

    Attributes:
        indices (np.ndarray): The training set X'', positions in the data
            set, int64, ascending.
        candidates (np.ndarray): The candidate set X', bool ``(N,)``.
        delta (float): Lowest confidence that passes; with
            ``'class_quantile'`` the lowest over the classes.
        gamma (float): The hyper-parameter of the threshold.
        threshold (str): The rule for delta.
        order (str): The rule for X''.
        fallback (bool): True if nothing passed and the most confident
            images were taken instead.
    """

    indices: np.ndarray
    candidates: np.ndarray
    delta: float
    gamma: float
    threshold: str
    order: str
    fallback: bool


@dataclass(frozen=True)
class EntropySelection:
    """A choice of the images with the largest entropy.

    Attributes:
        indices (np.ndarray): Positions in the data set, int64, in decreasing
            order of entropy.
        min_entropy (float): The least entropy among them, in nats.
    """

    indices: np.ndarray
    min_entropy: float


def _quantile(uncertainty: np.ndarray, gamma: float) -> float:
    """The ceil(gamma N)-th smallest uncertainty."""
    # 0.07 * 100 is 7.000...01, which is meant to be 7.
    rank = max(math.ceil(gamma * len(uncertainty) - 1e-9), 1)
    return float(np.partition(uncertainty, rank - 1)[rank - 1])


def _candidates(
    scores: Scores, gamma: float, threshold: str
) -> tuple[np.ndarray, float]:
    """Find X' and the largest uncertainty that passes."""
    u = scores.uncertainty
    if threshold == 'quantile':
        limit = _quantile(u, gamma)
    elif threshold == 'class_prior':
        limit = gamma * math.log(scores.num_classes)
    elif threshold == 'mean_max':
        c = np.exp(-u)
        # Rounding must not lift delta above the maximum: X' is never empty.
        delta = min((1 - gamma) * c.max() + gamma * c.mean(), c.max())
        # Compared as confidences: log(delta) could miss the maximum itself.
        return c >= delta, -math.log(delta)
    else:
        passed = np.zeros(len(u), dtype=bool)
        for label in np.unique(scores.predicted):
            members = np.flatnonzero(scores.predicted == label)
            passed[members] = u[members] <= _quantile(u[members], gamma)
        return passed, float(u[passed].max())
    return u <= limit, limit


def _ranking(
    scores: Scores, pool: np.ndarray, threshold: str, order: str, seed: int
) -> np.ndarray:
    """Sort the pool, best first; ties go by position in the data set."""
    if order == 'random':
        return np.random.default_rng(seed).permutation(pool)
    u = scores.uncertainty[pool]
    by_order = np.argsort(u if order == 'confident' else -u, kind='stable')
    if threshold != 'class_quantile':
        return pool[by_order]
    # Every class gives the same share of its candidates.
    labels = scores.predicted[pool]
    position = np.empty(len(pool))
    for label in np.unique(labels):
        members = by_order[labels[by_order] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return pool[np.argsort(position, kind='stable')]


def select(
    scores: Scores,
    num_samples: int,
    gamma: float,
    threshold: str = 'quantile',
    order: str = 'informative',
    seed: int = 0,
) -> Selection:
    r"""Select the training images by an adaptive confidence threshold.

    With the teacher's confidence :math:`c(x)` and ``n`` classes, X' holds the
    images of :math:`c(x) \ge \delta`, where delta is

    * ``'quantile'``: the :math:`\lceil\gamma|X|\rceil`-th largest confidence,
    * ``'class_prior'``: :math:`n^{-\gamma}`,
    * ``'mean_max'``: :math:`(1-\gamma) \max c + \gamma\, \mathrm{mean}\, c`,
    * ``'class_quantile'``: the quantile among the images of the same
      predicted class.

    X'' holds ``num_samples`` images of X': the least confident first
    (``'informative'``), the most confident first (``'confident'``), or any
    (``'random'``).

    Args:
        scores (Scores): The teacher's scores.
        num_samples (int): Size of X''; fewer where X' is smaller.
        gamma (float): In (0, 1); delta does not rise with it.
        threshold (str): Rule for delta. Defaults to ``'quantile'``.
        order (str): Rule for X''. Defaults to ``'informative'``.
        seed (int): Seed of ``order='random'``. Defaults to 0.

    Returns:
        Selection: The choice. Where nothing passes, the most confident
        images, marked as fallback.
    """
    passed, limit = _candidates(scores, gamma, threshold)
    fallback = not passed.any()
    if fallback:
        pool = np.argsort(scores.uncertainty, kind='stable')[:num_samples]
    else:
        pool = _ranking(
            scores, np.flatnonzero(passed), threshold, order, seed
        )[:num_samples]
    return Selection(
        indices=np.sort(pool).astype(np.int64),
        candidates=passed,
        delta=math.exp(-limit),
        gamma=gamma,
        threshold=threshold,
        order=order,
        fallback=fallback,
    )


def select_by_entropy(scores: Scores, num_samples: int) -> EntropySelection:
    """Select the images about which the teacher is the least decided.

    Args:
        scores (Scores): The teacher's scores of ``N`` images.
        num_samples (int): How many, at most ``N``.

    Returns:
        EntropySelection: The choice. Among equal entropies, the images that
        come first in the data set.

    Raises:
        ValueError: If there are fewer images.
    """
    entropy = scores.entropy
    if num_samples > len(entropy):
        raise ValueError(
            f'num_samples={num_samples} is more than the {len(entropy)} '
            f'images of the data set'
        )
    indices = np.argsort(-entropy, kind='stable')[:num_samples]
    return EntropySelection(
        indices=indices.astype(np.int64),
        min_entropy=float(entropy[indices[-1]]),
    )
