"""Correlation congruence: a kernel between the samples of a batch."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_number,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision

from .sample_rows import sample_rows, unit_rows

FORMS = ('kernel', 'neighbor')
_HINT = '; put a ConvConnector or LinearConnector on the student side'


def _kernel(units: Tensor, gamma: float, order: int) -> Tensor:
    """Taylor polynomial of the Gaussian kernel, shape ``(N, N)``."""
    cosines = units @ units.t()
    factors = [math.exp(-2 * gamma)]
    for power in range(1, order + 1):
        factors.append(factors[-1] * 2 * gamma / power)
    value = torch.full_like(cosines, factors.pop())
    while factors:
        value = value * cosines + factors.pop()
    return value


@full_precision
def cc_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    gamma: float = 0.4,
    order: int = 2,
    instance_weight: float = 0.0,
    form: str = 'kernel',
) -> Tensor:
    r"""Compare the correlations of the samples of a batch.

    .. math::
        L = \frac{1}{N^2} \sum_{i,j} \big(k(t_i, t_j) - k(s_i, s_j)\big)^2
        + \frac{w}{N} \sum_i \|t_i - s_i\|_2^2, \qquad
        k(x, y) = e^{-2 \gamma} \sum_{p=0}^{P}
        \frac{(2 \gamma)^p}{p!} (x^\top y)^p

    for embeddings of length 1, where :math:`k` is the Taylor polynomial of
    the Gaussian kernel :math:`\exp(-\gamma \|x - y\|_2^2)`. The first term
    is invariant to rotation of either side and to scale of every sample. A
    single sample has no correlations: the term is zero, attached to the
    graph.

    With ``form='neighbor'`` the first term is one of raw embeddings,

    .. math::
        \frac{1}{N - 1} \sum_{i=1}^{N-1} |t_i - s_i|^\top
        |t_{i+1} - s_{i+1}|

    over the samples as they follow each other in the batch.

    Args:
        preds_S (Tensor): Student embeddings, shape ``(N, *)``; what follows
            the batch size is flattened.
        preds_T (Tensor): Teacher embeddings, shape ``(N, *)``; no gradient
            flows into them. Any other size will do for the kernel alone.
        gamma (float): Of the kernel. Defaults to 0.4.
        order (int): Order :math:`P` of the polynomial. It is exact to 0.048
            with 2 and ``gamma=0.4``, to 0.0015 with 4. Defaults to 2.
        instance_weight (float): Weight :math:`w` of the distance of every
            sample of the student to that of the teacher. Defaults to 0.0.
        form (str): ``'kernel'`` or ``'neighbor'``. Defaults to
            ``'kernel'``.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the batch sizes differ, or other sizes where they
            must not.
    """
    rows_S, rows_T = sample_rows(preds_S, preds_T)
    if form == 'neighbor' or instance_weight:
        check_same_shape(rows_S, rows_T, hint=_HINT)
    count = rows_S.shape[0]
    units_S, units_T = unit_rows(rows_S), unit_rows(rows_T)
    if count < 2:
        total = rows_S[:0].sum()
    elif form == 'neighbor':
        gaps = (rows_S - rows_T).abs()
        total = (gaps[:-1] * gaps[1:]).sum() / (count - 1)
    else:
        total = mse_loss(
            _kernel(units_S, gamma, order), _kernel(units_T, gamma, order)
        )
    if instance_weight:
        squares = (units_S - units_T).square().sum() / max(count, 1)
        total = total + instance_weight * squares
    return total


@MODELS.register_module()
class CCLoss(nn.Module):
    r"""Correlation congruence for knowledge distillation.

    The correlations are those of the local batch: with several processes,
    each correlates its own samples.

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV
        2019, https://arxiv.org/abs/1904.01802. The published formula is the
        Taylor polynomial of the Gaussian kernel (default); a public
        re-implementation takes ``loss_weight=100`` for it on CIFAR-10. The
        paper adds a term of instances; its equation could not be obtained,
        so the squared distance of embeddings of length 1 is our choice, and
        off unless asked for (KLDivergence at the logits is another one).
        The ``form='neighbor'`` is what the benchmarks of RepDistiller
        compute under the name of this method, with ``loss_weight=0.02``, at
        linear embeddings of one width; it is not the published formula.

    Args:
        gamma (float): Of the Gaussian kernel. Defaults to 0.4.
        order (int): Order of the Taylor polynomial, at least 1. Defaults to
            2.
        instance_weight (float): Weight of the term of instances, not
            negative. Defaults to 0.0.
        form (str): ``'kernel'`` or ``'neighbor'``, to which gamma and order
            are nothing. Defaults to ``'kernel'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = CCLoss(order=1, gamma=0.5)
        >>> round(loss(torch.eye(2), torch.ones(2, 3)).item(), 4)
        0.0677
    """

    def __init__(
        self,
        *,
        gamma: float = 0.4,
        order: int = 2,
        instance_weight: float = 0.0,
        form: str = 'kernel',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.gamma = check_number('gamma', gamma, above=0)
        self.order = check_count('order', order)
        self.instance_weight = check_number(
            'instance_weight', instance_weight, least=0
        )
        self.form = check_choice('form', form, FORMS)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student embeddings, shape ``(N, *)``.
            preds_T (Tensor): Teacher embeddings, shape ``(N, *)``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * cc_loss(
            preds_S,
            preds_T,
            self.gamma,
            self.order,
            self.instance_weight,
            self.form,
        )
