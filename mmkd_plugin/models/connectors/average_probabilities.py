"""Average what several teachers say."""

import math
from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number, check_tensors
from mmkd_plugin.utils.precision import full_precision


@full_precision
def average_probabilities(
    *logits: Tensor,
    tau: float = 1.0,
    weights: Optional[Sequence[float]] = None,
) -> Tensor:
    r"""Compute :math:`\tau \log \sum_k w_k\, \mathrm{softmax}(z_k / \tau)`.

    Args:
        *logits (Tensor): Logits of the teachers, each of shape ``(N, C,
            *)``.
        tau (float): Temperature. Defaults to 1.0.
        weights (Sequence[float], optional): One for each teacher, not
            negative; they are divided by their sum. Defaults to None, equal
            weights.

    Returns:
        Tensor: Same shape; float32, float64 for float64. Its softmax at the
        temperature is the mean of those of the teachers.

    Raises:
        ValueError: If the shapes differ, or if there is another number of
            weights than of teachers.
    """
    check_tensors(**{f'logits_{k}': one for k, one in enumerate(logits)})
    shapes = [tuple(one.shape) for one in logits]
    if len(set(shapes)) > 1 or len(shapes[0]) < 2:
        raise ValueError(
            f'the logits of all teachers must have the same shape (N, C, *), '
            f'but got {", ".join(map(str, shapes))}'
        )
    if weights is None:
        weights = [1.0] * len(logits)
    if len(weights) != len(logits):
        raise ValueError(
            f'there must be one weight for each of the {len(logits)} '
            f'teachers, but got {list(weights)}'
        )
    total = sum(weights)
    # In log space, where a mean of small probabilities does not vanish.
    terms = [
        torch.log_softmax(one / tau, dim=1) + math.log(weight / total)
        for one, weight in zip(logits, weights, strict=True)
        if weight > 0
    ]
    return tau * torch.logsumexp(torch.stack(terms, dim=-1), dim=-1)


@MODELS.register_module()
class AverageProbabilities(nn.Module):
    r"""Make one teacher of several, by the mean of their probabilities.

    The result stands for logits: softened with ``tau`` it is
    :math:`\bar p = \sum_k w_k\, p_k` with :math:`p_k = \mathrm{softmax}(z_k /
    \tau)`. Hence a loss on logits that has the same temperature compares the
    student with :math:`\bar p`: :class:`KLDivergence` is :math:`\tau^2
    \mathrm{KL}(\bar p \| p_S)`, and :class:`DKDLoss`, :class:`DISTLoss` and
    the like work as well. Put it on the logits of one teacher and hand it
    those of the others, whatever they are called::

        connectors=dict(mean=dict(type='AverageProbabilities', tau=4.0)),
        ...
        preds_T=dict(from_student=False, recorder='first', connector='mean',
                     connector_inputs=dict(
                         second=dict(from_student=False, recorder='second'),
                         third=dict(from_student=False, recorder='third')))

    Several losses, one for each teacher, average the divergences instead.
    The gradient of the student is the same, the value differs by what the
    teachers disagree in. The mean of the logits has another gradient; by
    configuration it is had for :class:`MSELoss`, as the sum of the losses to
    each teacher.

    A class that one teacher has dropped (``-inf``, see
    :class:`ClassDropMask`) has the probability that the others give it; one
    that all have dropped stays dropped.

    Reference:
        Averaging the answers of several teachers is in Hinton et al.,
        Distilling the Knowledge in a Neural Network, 2015,
        https://arxiv.org/abs/1503.02531, section 1. Zhang et al.,
        Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022,
        https://arxiv.org/abs/2201.00007, compares with it; the published
        code (commit acc8c2b of https://github.com/Rorozhl/CA-MKD) averages
        the divergences at a temperature of 4, and gives them and the cross
        entropy a weight of 1 each.

    Args:
        tau (float): Temperature, that of the loss. Defaults to 1.0.
        weights (Sequence[float], optional): One for each teacher, that of
            the record first, then in the order of ``connector_inputs``; not
            negative, not all zero. They are divided by their sum. Defaults to
            None, equal weights.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> mean = AverageProbabilities(weights=[3, 1])
        >>> first, second = torch.zeros(1, 2), torch.tensor([[0.0, 9.0]])
        >>> mean(first, second=second).softmax(dim=1)
        tensor([[0.3750, 0.6250]])
    """

    def __init__(
        self, *, tau: float = 1.0, weights: Optional[Sequence[float]] = None
    ) -> None:
        super().__init__()
        self.tau = check_number('tau', tau, above=0)
        if weights is not None:
            if not isinstance(weights, Sequence) or isinstance(weights, str):
                raise ValueError(
                    f'weights must be a sequence of numbers, but got '
                    f'{weights!r}'
                )
            for weight in weights:
                check_number('a weight', weight, least=0)
            if not any(weights):
                raise ValueError(
                    f'one of the weights must be positive, but got {weights!r}'
                )
        self.weights = weights

    def forward(self, logits: Tensor, **others: Tensor) -> Tensor:
        """Average the teachers.

        Args:
            logits (Tensor): Logits of a teacher, shape ``(N, C, *)``.
            **others (Tensor): Those of the other teachers, same shape.

        Returns:
            Tensor: Same shape, and the dtype of ``logits``.

        Raises:
            ValueError: If the shapes differ, or if there is another number
                of weights than of teachers.
        """
        mean = average_probabilities(
            logits, *others.values(), tau=self.tau, weights=self.weights
        )
        return mean.to(logits.dtype)
