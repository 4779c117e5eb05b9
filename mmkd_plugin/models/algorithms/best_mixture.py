"""The mixture of several students' logits that answers best."""

import numpy as np
import torch
from torch import Tensor

# Of the gradient, to which the optimality condition holds.
TOLERANCE = 1e-10
MOST_STEPS = 100
# Of the quadratic model: students that answer alike leave it undetermined.
_RIDGE = 1e-10
# Of the expected decrease, that a step must bring.
_SUFFICIENT = 1e-4


def best_mixture(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Minimise the cross entropy of a convex combination of logits.

    .. math::
        w = \arg\min_w \frac{1}{N} \sum_n \mathrm{CE}\left(
            \sum_k w_k z_{kn}, y_n\right) \quad
        \mathrm{with} \quad w_k \ge 0, \quad \sum_k w_k = 1

    The problem is convex. It is solved in float64 by Newton's method from
    equal weights: each step minimises the second-order model on the simplex
    (an active-set method, as there are few weights), and is halved until the
    cross entropy falls. It ends when no weight has a gradient that is lower
    than the mean of those in use, by 1e-10 of the largest; that gap is a bound
    of what could still be gained. No random numbers are involved.

    Args:
        logits (Tensor): Logits of K students, shape ``(K, N, C)``.
        labels (Tensor): Class indices, int64, shape ``(N,)``.

    Returns:
        Tensor: The weights, float64, shape ``(K,)``, on the logits' device.
        Equal ones where nothing is better, and for an empty batch.

    Examples:
        >>> good, bad = torch.eye(3), -torch.eye(3)
        >>> best_mixture(torch.stack([good, bad]), torch.arange(3))
        tensor([1., 0.], dtype=torch.float64)
    """
    logits = logits.detach().double()
    count = len(logits)
    weights = np.full(count, 1.0 / count)
    # With the label's logit at zero, the cross entropy is a log-sum-exp.
    index = labels.view(1, -1, 1).expand(count, -1, 1)
    gaps = logits - logits.gather(2, index)
    steps = MOST_STEPS if len(labels) else 0
    model = _expand(gaps, weights)
    for _ in range(steps):
        value, gradient, curvature = model
        gap = gradient @ weights - gradient.min()
        if not gap > TOLERANCE * (1.0 + np.abs(gradient).max()):
            break
        scale = max(np.abs(curvature).max(), np.abs(gradient).max())
        quadratic = curvature / scale + _RIDGE * np.eye(count)
        linear = gradient / scale - quadratic @ weights
        direction = minimise_on_simplex(quadratic, linear) - weights
        slope = gradient @ direction
        step = 1.0
        while step > 1e-12:
            trial = weights + step * direction
            model = _expand(gaps, trial)
            # Near the optimum, what is gained drowns in rounding.
            rounding = 1e-15 * (1.0 + abs(value))
            if model[0] <= value + _SUFFICIENT * step * slope + rounding:
                weights = trial
                break
            step /= 2
        else:
            break
    return torch.from_numpy(weights).to(logits.device)


def _expand(
    gaps: Tensor, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Get value, gradient and second derivative of the cross entropy."""
    mixed = torch.tensordot(
        torch.from_numpy(weights).to(gaps.device), gaps, dims=1
    )
    prob = mixed.softmax(dim=1)
    means = (gaps * prob).sum(dim=2)
    centred = gaps - means.unsqueeze(2)
    second = (centred * prob).flatten(1) @ centred.flatten(1).T
    # One transfer for all of them.
    found = torch.cat(
        [
            mixed.logsumexp(dim=1).mean().view(1),
            means.mean(dim=1),
            second.flatten() / gaps.shape[1],
        ]
    )
    numbers = found.cpu().numpy()
    count = len(gaps)
    return (
        float(numbers[0]),
        numbers[1 : count + 1],
        numbers[count + 1 :].reshape(count, count),
    )


def minimise_on_simplex(quadratic: np.ndarray, linear: np.ndarray):
    r"""Minimise :math:`\frac{1}{2} x^T A x + b^T x` over the simplex.

    Args:
        quadratic (np.ndarray): Symmetric and positive definite, ``(K, K)``.
        linear (np.ndarray): Shape ``(K,)``.

    Returns:
        np.ndarray: The minimum, ``(K,)``, not negative, with the sum 1.

    Examples:
        >>> minimise_on_simplex(np.eye(2), np.array([0.0, -0.5]))
        array([0.25, 0.75])
    """
    count = len(linear)
    point = np.zeros(count)
    # The best corner, then more and more of the simplex.
    free = point.astype(bool)
    corner = int(np.argmin(linear + np.diag(quadratic) / 2))
    point[corner], free[corner] = 1.0, True
    # In exact arithmetic it ends by itself.
    for _ in range(10 * count):
        trial = _minimise_on_face(quadratic, linear, free)
        low = free & (trial <= 0)
        if low.any():
            # As far as the first one of them reaches zero, which is left out.
            share = np.full(count, np.inf)
            share[low] = point[low] / (point[low] - trial[low])
            first = int(np.argmin(share))
            point = point + share[first] * (trial - point)
            point[first], free[first] = 0.0, False
            continue
        point = trial
        gradient = quadratic @ point + linear
        gain = np.where(free, 0.0, gradient[free].min() - gradient)
        best = int(np.argmax(gain))
        if not gain[best] > 1e-14:
            break
        free[best] = True
    point = point.clip(min=0.0)
    return point / point.sum()


def _minimise_on_face(
    quadratic: np.ndarray, linear: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Minimise where the sum is 1 and all but the free ones are zero."""
    places = np.flatnonzero(free)
    size = len(places)
    system = np.zeros((size + 1, size + 1))
    system[:size, :size] = quadratic[np.ix_(places, places)]
    system[size, :size] = system[:size, size] = 1.0
    right = np.append(-linear[places], 1.0)
    point = np.zeros(len(linear))
    point[places] = np.linalg.solve(system, right)[:size]
    return point
