"""Whether the hypotheses of the paper hold in a comparison."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .explanation import Explanation, NetworkResult

# A difference is called one where it is larger than so many standard errors,
# and only where there are images enough to estimate these.
CLEAR, FEWEST = 2.0, 10
HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'cannot be said'

N_FG, N_BG = 'N<sub>fg</sub>', 'N<sub>bg</sub>'
D_MEAN, D_STD = 'D<sub>mean</sub>', 'D<sub>std</sub>'
LAMBDA, RHO = '&lambda;', '&rho;'


class Estimate(NamedTuple):
    """A figure over images, and its standard error; NaN where unknown."""

    value: float
    error: float


UNKNOWN = Estimate(math.nan, math.nan)


class Comparison(NamedTuple):
    """A figure of the student against that of the baseline.

    Attributes:
        symbol (str): HTML.
        student (float): Its figure.
        baseline (float): Its figure.
        difference (Estimate): Student minus baseline.
        wanted (int): The sign of the difference where the hypothesis holds.
    """

    symbol: str
    student: float
    baseline: float
    difference: Estimate
    wanted: int


class Hypothesis(NamedTuple):
    """A hypothesis of the paper, and what this run says.

    Attributes:
        text (str): The hypothesis.
        comparisons (list[Comparison]): What it is about.
        verdict (str): Whether it holds.
        reason (str): Why.
    """

    text: str
    comparisons: list
    verdict: str
    reason: str


def counted_images(count: int) -> str:
    """Write a number of images."""
    return f'{count:,} image' + ('' if count == 1 else 's')


def _standard_error(values: Tensor) -> float:
    if len(values) < 2:
        return math.nan
    return (values.double().std() / math.sqrt(len(values))).item()


def _mean(values: Tensor) -> Estimate:
    values = values.double()
    return Estimate(values.mean().item(), _standard_error(values))


def _influence(values: Tensor) -> Tensor:
    """Tell how much each image moves the standard deviation.

    The delta method: the standard error of a standard deviation is that of
    the mean of these.
    """
    values = values.double()
    deviation = values.std(correction=0)
    if deviation == 0:
        return torch.zeros_like(values)
    centred = values - values.mean()
    return (centred.square() - deviation.square()) / (2 * deviation)


def spread(values: Tensor) -> Estimate:
    """Estimate a standard deviation over images, and its own error."""
    deviation = values.double().std(correction=0).item()
    return Estimate(deviation, _standard_error(_influence(values)))


def _counts(network: NetworkResult) -> dict[str, Tensor]:
    """Collect the counts of each image at the last checkpoint."""
    points = network.points
    return {
        N_FG: points.n_fg[-1, points.counted],
        N_BG: points.n_bg[-1, points.counted],
        LAMBDA: points.lambda_[-1, points.counted],
    }


def known_figures(network: NetworkResult) -> dict[str, Estimate]:
    """Collect the figures of a network, as far as they are known.

    Args:
        network (NetworkResult): The network.

    Returns:
        dict[str, Estimate]: Figures at its last checkpoint, by symbol.
    """
    figures = {key: _mean(values) for key, values in _counts(network).items()}
    if network.speed is not None:
        figures[D_MEAN] = _mean(network.speed.distances)
        figures[D_STD] = spread(network.speed.distances)
    if network.stability is not None:
        figures[RHO] = _mean(network.stability.rho)
    return figures


def _compare_means(
    symbol: str, student: Tensor, baseline: Tensor, wanted: int
) -> Comparison:
    student, baseline = student.double(), baseline.double()
    return Comparison(
        symbol,
        student.mean().item(),
        baseline.mean().item(),
        _mean(student - baseline),
        wanted,
    )


def _compare_spreads(
    symbol: str, student: Tensor, baseline: Tensor, wanted: int
) -> Comparison:
    first, second = spread(student).value, spread(baseline).value
    influence = _influence(student) - _influence(baseline)
    difference = Estimate(first - second, _standard_error(influence))
    return Comparison(symbol, first, second, difference, wanted)


def judge_hypotheses(explanation: Explanation) -> list[Hypothesis]:
    """Say which hypotheses of the paper hold between student and baseline.

    A difference is clear beyond two standard errors over the images. A
    hypothesis holds where all its parts are clear, and does not where one is
    clear the other way.

    Args:
        explanation (Explanation): What was counted.

    Returns:
        list[Hypothesis]: More points on the foreground, faster learning,
        fewer detours.
    """
    networks = explanation.networks
    student, baseline = networks.get('student'), networks.get('baseline')
    texts = (
        'The student has more points on the foreground, and a higher share '
        'of its points is there',
        'The student learns earlier, and all images more at the same time',
        'The student takes fewer detours',
    )
    if student is None or baseline is None:
        missing = 'student' if student is None else 'baseline'
        return [
            Hypothesis(text, [], OPEN, f'no {missing} to compare with')
            for text in texts
        ]
    mine, other = _counts(student), _counts(baseline)
    counts = [
        _compare_means(symbol, mine[symbol], other[symbol], 1)
        for symbol in (N_FG, LAMBDA)
    ]
    speeds, detours = [], []
    if student.speed is not None and baseline.speed is not None:
        pair = (student.speed.distances, baseline.speed.distances)
        speeds = [
            _compare_means(D_MEAN, *pair, -1),
            _compare_spreads(D_STD, *pair, -1),
        ]
    if student.stability is not None and baseline.stability is not None:
        pair = (student.stability.rho, baseline.stability.rho)
        detours = [_compare_means(RHO, *pair, 1)]
    images = len(mine[N_FG])
    course = _why_no_course(student, baseline)
    distances_course = course or (
        ''
        if explanation.comparable_distances
        else 'their weight distances are not of the same kind'
    )
    # More looks at a network see more points that come and go.
    detours_course = course or (
        'the two are read at different numbers of checkpoints'
        if _num_looks(student) != _num_looks(baseline)
        else ''
    )
    return [
        _judge(text, comparisons, images, hindrance)
        for text, comparisons, hindrance in zip(
            texts,
            (counts, speeds, detours),
            ('', distances_course, detours_course),
            strict=True,
        )
    ]


def _why_no_course(student: NetworkResult, baseline: NetworkResult) -> str:
    if min(len(student.epochs), len(baseline.epochs)) < 2:
        return 'this needs several checkpoints of both'
    return ''


def _num_looks(network: NetworkResult) -> int:
    # In a phase with a frozen layer there is nothing new to be seen.
    return len(set(network.distances or network.epochs))


def _judge(
    text: str, comparisons: list, images: int, hindrance: str
) -> Hypothesis:
    if not hindrance and not comparisons:
        hindrance = 'not measured'
    if not hindrance and images < FEWEST:
        hindrance = (
            f'{counted_images(images)}, and at least {FEWEST} are needed'
        )
    if hindrance:
        return Hypothesis(text, comparisons, OPEN, hindrance)
    clear = [_direction(comparison) for comparison in comparisons]
    if -1 in clear:
        verdict, reason = FAILS, 'a clear difference the other way'
    elif 0 in clear:
        verdict, reason = OPEN, 'no clear difference'
    else:
        verdict = HOLDS
        reason = 'clear differences' if clear[1:] else 'a clear difference'
    if len(clear) > 1 and verdict != HOLDS:
        which = -1 if verdict == FAILS else 0
        reason += ' in ' + ' and '.join(
            comparison.symbol
            for comparison, sign in zip(comparisons, clear, strict=True)
            if sign == which
        )
    return Hypothesis(text, comparisons, verdict, reason)


def _direction(comparison: Comparison) -> int:
    """Tell whether a difference is clear: 1 as wanted, -1 the other way."""
    value, error = comparison.difference
    value *= comparison.wanted
    # NaN is neither.
    return int(value > CLEAR * error) - int(value < -CLEAR * error)
