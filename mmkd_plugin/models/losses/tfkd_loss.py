"""Teacher-free distillation from a teacher that is made up."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_flag,
    check_labels,
    check_number,
    check_rows,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

from .reduction import REDUCTIONS, reduce_samples
from .softened import SoftenedKL


@full_precision
def tfkd_loss(
    preds_S: Tensor,
    gt_labels: Tensor,
    alpha: float = 0.1,
    tau: float = 20.0,
    correct_prob: float = 0.99,
    multiplier: float = 1.0,
    official_compat: bool = False,
    reduction: str = 'batchmean',
) -> Tensor:
    r"""Compute cross entropy and the divergence from a virtual teacher.

    .. math::
        L = (1 - \alpha) \mathrm{CE}(y, p) + \alpha m
            \mathrm{KL}(p^d_\tau \| p_\tau), \qquad
        p^d_c = a \text{ at the label, } \frac{1 - a}{C - 1}
        \text{ elsewhere}

    with :math:`p_\tau = \mathrm{softmax}(z / \tau)` and, alike,
    :math:`p^d_\tau = \mathrm{softmax}(\log p^d / \tau)`. There is no factor
    :math:`\tau^2`. At :math:`\tau = 1` and :math:`m = 1` this is label
    smoothing with the target :math:`(1 - \alpha) y + \alpha p^d`, but for a
    constant.

    With ``official_compat`` the second term is

    .. math::
        \frac{\alpha m}{C}
        \mathrm{KL}\big(\mathrm{softmax}(p^d / \tau) \,\|\, p\big)

    where the probabilities are softened as if they were logits, the student
    is not softened, and the mean is over all elements.

    Args:
        preds_S (Tensor): Student logits, shape ``(N, C)``, ``C >= 2``.
        gt_labels (Tensor): Labels, an integer tensor of shape ``(N,)``.
        alpha (float): Share :math:`\alpha` of the second term. Defaults to
            0.1.
        tau (float): Temperature. Defaults to 20.0.
        correct_prob (float): The virtual teacher's probability :math:`a` of
            the label. Defaults to 0.99.
        multiplier (float): Factor :math:`m` of the second term. Defaults to
            1.0.
        official_compat (bool): Whether to take the second term of the
            published code. Defaults to False.
        reduction (str): ``'batchmean'`` averages over the samples, ``'sum'``
            sums, ``'none'`` returns ``(N,)``. Defaults to ``'batchmean'``.

    Returns:
        Tensor: A scalar, or ``(N,)``; float32, float64 for float64.

    Raises:
        ValueError: If shapes or labels do not fit.
    """
    check_tensors(preds_S=preds_S)
    check_rows(preds_S)
    labels = check_labels(gt_labels, preds_S)
    classes = preds_S.shape[1]
    hard = torch.nn.functional.cross_entropy(preds_S, labels, reduction='none')
    at_label, elsewhere = correct_prob, (1 - correct_prob) / (classes - 1)
    if official_compat:
        at_label, elsewhere = at_label / tau, elsewhere / tau
        tau, multiplier = 1.0, multiplier / classes
    else:
        at_label, elsewhere = math.log(at_label), math.log(elsewhere)
    virtual = torch.full_like(preds_S, elsewhere, requires_grad=False)
    virtual.scatter_(1, labels.unsqueeze(1), at_label)
    soft = SoftenedKL.apply(preds_S, virtual, tau, False)
    per_sample = (1 - alpha) * hard + (alpha * multiplier) * soft
    return reduce_samples(per_sample, reduction)


@MODELS.register_module()
class TFKDLoss(nn.Module):
    r"""Teacher-free knowledge distillation by regularisation.

    It holds the cross entropy with the labels already: the student's own
    loss is to be left out (``calculate_student_loss=False``).

    Reference:
        Yuan et al., Revisiting Knowledge Distillation via Label Smoothing
        Regularization, CVPR 2020, https://arxiv.org/abs/1909.11723,
        Tf-KD_reg. Defaults of ``alpha``, ``tau`` and ``correct_prob`` are
        those of the published code for ResNet-18 on CIFAR-100. How the
        virtual teacher is softened is our reading: as every softmax, by the
        temperature over the logits, here :math:`\log p^d`. The published
        code computes another second term, see :func:`tfkd_loss`; its numbers
        are those of ``official_compat=True`` with ``multiplier=100``.

    Args:
        alpha (float): Share of the virtual teacher, in [0, 1]. Defaults to
            0.1.
        tau (float): Temperature. Defaults to 20.0.
        correct_prob (float): The virtual teacher's probability of the label,
            in (0, 1). Defaults to 0.99.
        multiplier (float): Factor of the divergence, not negative. Defaults
            to 1.0.
        official_compat (bool): Whether to take the second term of the
            published code. Defaults to False.
        reduction (str): ``'batchmean'``, ``'sum'`` or ``'none'``, see
            :func:`tfkd_loss`. Defaults to ``'batchmean'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> preds_S, labels = torch.eye(3)[:2], torch.tensor([0, 2])
        >>> round(TFKDLoss()(preds_S, labels).item(), 4)
        0.9471
        >>> loss = TFKDLoss(official_compat=True, multiplier=100.0)
        >>> round(loss(preds_S, labels).item(), 4)
        1.3363
    """

    # Looked at by the algorithm: the student's own loss would be another one.
    holds_cross_entropy = True

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        tau: float = 20.0,
        correct_prob: float = 0.99,
        multiplier: float = 1.0,
        official_compat: bool = False,
        reduction: str = 'batchmean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.alpha = check_number('alpha', alpha, least=0, most=1)
        self.tau = check_number('tau', tau, above=0)
        self.correct_prob = check_number(
            'correct_prob', correct_prob, above=0, below=1
        )
        self.multiplier = check_number('multiplier', multiplier, least=0)
        self.official_compat = check_flag('official_compat', official_compat)
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, gt_labels: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student logits, shape ``(N, C)``.
            gt_labels (Tensor): Labels, an integer tensor ``(N,)``.

        Returns:
            Tensor: The loss.
        """
        return self.loss_weight * tfkd_loss(
            preds_S,
            gt_labels,
            self.alpha,
            self.tau,
            self.correct_prob,
            self.multiplier,
            self.official_compat,
            self.reduction,
        )
