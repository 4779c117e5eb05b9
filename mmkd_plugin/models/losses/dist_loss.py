"""Distillation from a stronger teacher: correlations, not distances."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_number,
    check_rows,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision


def _directions(log_prob: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Centre and normalise probabilities along a dimension.

    A correlation does not change with the scale, so the largest probability
    of a line is set to 1: those of a rare class would underflow otherwise.

    Returns:
        tuple[Tensor, Tensor]: The directions, zero for a constant line, and
        a bool, True for constant lines.
    """
    # The bound is for lines that are all -inf, a class that is dropped.
    top = log_prob.detach().amax(dim, keepdim=True)
    top = top.clamp_min(torch.finfo(log_prob.dtype).min)
    prob = (log_prob - top).exp()
    centred = prob - prob.mean(dim, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    # What is left of equal numbers is rounding.
    rounding = 16 * torch.finfo(prob.dtype).eps * prob.shape[dim] ** 0.5
    constant = norm <= rounding
    directions = centred / norm.masked_fill(constant, 1)
    return directions.masked_fill(constant, 0), constant.squeeze(dim)


def _gap(log_S: Tensor, log_T: Tensor, dim: int) -> Tensor:
    """Average 1 - Pearson along a dimension over the other one."""
    lines_S, _ = _directions(log_S, dim)
    lines_T, nothing_to_learn = _directions(log_T, dim)
    correlation = (lines_S * lines_T).sum(dim)
    return (1 - correlation).masked_fill(nothing_to_learn, 0).mean()


@full_precision
def dist_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
) -> Tensor:
    r"""Compare how the probabilities of student and teacher correlate.

    .. math::
        L = \tau^2 \Big( \frac{\beta}{N} \sum_i
            \big(1 - \rho(p_{S,i:}, p_{T,i:})\big)
            + \frac{\gamma}{C} \sum_c
            \big(1 - \rho(p_{S,:c}, p_{T,:c})\big) \Big), \qquad
        p = \mathrm{softmax}(z / \tau)

    with Pearson's correlation :math:`\rho`, in the first sum over the classes
    of a sample, in the second over the samples of a class.

    Where the teacher is constant there is nothing to correlate with, and the
    term is zero: all classes for a single sample. Where the student alone is
    constant it is 1, without a gradient.

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C)``.
        preds_T (Tensor): Teacher logits, same shape; no gradient flows into
            them. Logits of ``-inf`` (dropped classes) are allowed.
        beta (float): Weight of the relation between classes. Defaults to 1.0.
        gamma (float): Weight of the relation within a class. Defaults to 1.0.
        tau (float): Temperature. Defaults to 1.0.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the shapes do not fit.
    """
    check_same_shape(preds_S, preds_T)
    check_rows(preds_S)
    if preds_S.numel() == 0:
        return preds_S.sum()
    log_S = torch.log_softmax(preds_S / tau, dim=1)
    log_T = torch.log_softmax(preds_T.detach() / tau, dim=1)
    inter, intra = _gap(log_S, log_T, 1), _gap(log_S, log_T, 0)
    return (tau * tau) * (beta * inter + gamma * intra)


@MODELS.register_module()
class DISTLoss(nn.Module):
    r"""DIST: match the relations of the probabilities, not their values.

    It is added to the cross entropy with the labels. The relation within a
    class is that of the samples of the local batch: on several ranks, each
    has its own.

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS
        2022, https://arxiv.org/abs/2205.10536: the mean over samples and
        over classes of 1 - Pearson's correlation of softened probabilities.
        Defaults are those of the published loss; its ImageNet recipe is
        ``loss_weight=2``, ``tau=1``, its CIFAR-100 recipe ``loss_weight=2``,
        ``tau=4`` (``dist_cifar.yaml`` of https://github.com/hunto/LocalMamba,
        whose loss has the factor :math:`\tau^2`; the author's loss for
        segmentation has no temperature). Deviations: where the published
        code bounds norms by 1e-8, so that classes below that do not count,
        the correlation here is exact however small the probabilities are;
        and where the teacher is constant, the term is 0, there it is 1.

    Args:
        beta (float): Weight of the relation between classes, not negative.
            Defaults to 1.0.
        gamma (float): Weight of the relation within a class, not negative.
            Defaults to 1.0.
        tau (float): Temperature. Defaults to 1.0.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = DISTLoss()
        >>> logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
        >>> abs(loss(logits, logits).item()) < 1e-6
        True
        >>> round(loss(logits.flip(0), logits).item(), 4)
        3.5688
    """

    def __init__(
        self,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        tau: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.beta = check_number('beta', beta, least=0)
        self.gamma = check_number('gamma', gamma, least=0)
        self.tau = check_number('tau', tau, above=0)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student logits, shape ``(N, C)``.
            preds_T (Tensor): Teacher logits, same shape.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * dist_loss(
            preds_S, preds_T, self.beta, self.gamma, self.tau
        )
