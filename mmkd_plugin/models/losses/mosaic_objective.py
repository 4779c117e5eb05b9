r"""The terms of MosaicKD's objectives, as pure functions.

Reference:
    Fang et al., Mosaicking to Distill: Knowledge Distillation from
    Out-of-Domain Data, NeurIPS 2021, https://arxiv.org/abs/2110.15094.

'Official' is what the authors' training script computes (written from a
description of it, as it has no licence). The paper's equations could not be
obtained: what is said about them is second-hand.

The discriminator minimises :func:`patch_discriminator_loss`, the generator
the weighted sum of

* :func:`patch_generator_loss`: patches look like those of real images,
* :func:`alignment_loss`: the teacher is sure of every image,
* :func:`adversarial_loss`: the student does not know the image yet,
* :func:`balance_loss`: all classes are made equally often,

and the student a plain KL divergence
(:func:`~mmkd_plugin.models.losses.kl_divergence`). That script multiplies
the discriminator's loss with the weight of the patch term, too.

All compute in float32, or float64 for float64, whatever autocast says, and in
log space: value and gradient stay finite where probabilities underflow. An
empty batch gives a zero that is attached to the graph.
"""

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_same_shape,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

PATCH_REDUCTIONS = ('mean', 'patch_sum')


def check_logits(**values: Tensor) -> None:
    """Check that values are logits of at least one class and position.

    Raises:
        ValueError: If one is not.
    """
    check_tensors(**values)
    for name, value in values.items():
        if (
            value.dim() < 2
            or 0 in value.shape[1:]
            or not value.is_floating_point()
        ):
            raise ValueError(
                f'{name} must be logits of shape (B, K, *), but got '
                f'{value.dtype} of shape {tuple(value.shape)}'
            )


def mean_or_zero(values: Tensor) -> Tensor:
    """Average over all elements; zero, not NaN, where there are none."""
    return values.sum() / max(values.numel(), 1)


def _check_patches(reduction: str, **values: Tensor) -> None:
    check_choice('reduction', reduction, PATCH_REDUCTIONS)
    check_tensors(**values)
    for name, value in values.items():
        if value.dim() < 1 or not value.is_floating_point():
            raise ValueError(
                f"{name} must be the discriminator's logits, one or more an "
                f'image, shape (B, *), but got {value.dtype} of shape '
                f'{tuple(value.shape)}'
            )


@full_precision
def patch_discriminator_loss(
    fake: Tensor, real: Tensor, reduction: str = 'mean'
) -> Tensor:
    r"""Compute the loss of the discriminator that tells patches apart.

    .. math::
        L = \frac{1}{2} \Big( \operatorname{mean}_{b, i}
            \log(1 + e^{f_{bi}}) + \operatorname{mean}_{b, i}
            \log(1 + e^{-r_{bi}}) \Big)

    with the logits :math:`f` of the patches :math:`i` of fake images and
    :math:`r` of real ones: the binary cross entropies, halved.

    The paper's discriminator maximises the expected log-likelihood of
    cropped patches; the official one looks at all patches that its
    receptive fields make, which is what the ``*`` dimensions are. That code
    sums over the patches, so that the weight of this term grows with their
    number, and divides both sums by twice the number of *fake* images, so
    that a smaller last batch of real ones counts less. The default mends
    both: each of the means is over its own patches and images.

    Args:
        fake (Tensor): Logits of fake images, shape ``(B, *)``, for example
            ``(B, 1, h, w)``. Detach the images, not these, to train the
            discriminator alone.
        real (Tensor): Logits of real images, shape ``(B', *)``.
        reduction (str): ``'mean'`` as above, or ``'patch_sum'``, the
            official :math:`(\sum \log(1 + e^f) + \sum \log(1 + e^{-r})) /
            (2 B)`. With :math:`B = B'` this is the mean times the number of
            patches an image. Defaults to ``'mean'``.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If an input is no floating point tensor or the reduction
            is unknown.
    """
    _check_patches(reduction, fake=fake, real=real)
    # Softplus itself rounds to the identity from 20 on.
    losses_fake, losses_real = -logsigmoid(-fake), -logsigmoid(real)
    if reduction == 'patch_sum':
        total = losses_fake.sum() + losses_real.sum()
        return total / (2 * max(fake.shape[0], 1))
    return (mean_or_zero(losses_fake) + mean_or_zero(losses_real)) / 2


@full_precision
def patch_generator_loss(fake: Tensor, reduction: str = 'mean') -> Tensor:
    r"""Compute the generator's loss from the discriminator's answers.

    .. math::
        L = \operatorname{mean}_{b, i} \log(1 + e^{-f_{bi}})

    with the logits :math:`f` of the patches :math:`i` of fake images.

    The paper plays minimax, which would be
    :math:`-\log(1 + e^{f})`; the official code minimises this non-saturating
    form, which has a gradient also where the discriminator is sure. It sums
    over the patches: its weight 1 is a weight 64 of the default's mean at
    the published 8 x 8 patches.

    Args:
        fake (Tensor): Logits of fake images, shape ``(B, *)``, for example
            ``(B, 1, h, w)``.
        reduction (str): ``'mean'`` over patches and images, or
            ``'patch_sum'``, the official sum over patches and mean over
            images. Defaults to ``'mean'``.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the input is no floating point tensor or the reduction
            is unknown.
    """
    _check_patches(reduction, fake=fake)
    losses = -logsigmoid(fake)
    if reduction == 'patch_sum':
        return losses.sum() / max(fake.shape[0], 1)
    return mean_or_zero(losses)


@full_precision
def alignment_loss(preds_T: Tensor) -> Tensor:
    r"""Compute the entropy of the teacher's answers, in nats.

    .. math::
        L = - \operatorname{mean}_b \sum_k p_{bk} \log p_{bk}, \qquad
        p = \mathrm{softmax}(t)

    Minimised, images come to look like something that the teacher knows.
    This entropy is what the official code computes; with maps of logits the
    mean is over the positions as well, which is inferred (it has no code for
    segmentation).

    Args:
        preds_T (Tensor): Teacher logits of synthetic images, finite, shape
            ``(B, K)`` or ``(B, K, H, W)``; the gradient flows into them.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the input are no logits.
    """
    check_logits(preds_T=preds_T)
    log_p = preds_T.log_softmax(dim=1)
    return -mean_or_zero((log_p.exp() * log_p).sum(dim=1))


@full_precision
def adversarial_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Compute how much the student agrees with the teacher: minus their KL.

    .. math::
        L = - \operatorname{mean}_b \sum_k p_{bk}
            (\log p_{bk} - \log q_{bk}), \qquad
        p = \mathrm{softmax}(t), \quad q = \mathrm{softmax}(s)

    Minimised by the generator, it makes images that the student does not
    know yet. Unlike :func:`~mmkd_plugin.models.losses.kl_divergence`, the
    gradient flows into both networks' logits, as both are functions of the
    image. The temperature is 1, as in the official code, also where the
    student is distilled at another.

    The official code takes the divergence of the teacher's probabilities,
    whose gradient is NaN once one of them underflows (logits 104 apart in
    float32); here it is that of the log-probabilities, equal elsewhere. With
    maps of logits the mean is over the positions as well (inferred).

    Args:
        preds_S (Tensor): Student logits of synthetic images, finite, shape
            ``(B, K)`` or ``(B, K, H, W)``.
        preds_T (Tensor): Teacher logits, finite, same shape.

    Returns:
        Tensor: A scalar, never positive but for rounding; float32, float64
        for float64.

    Raises:
        ValueError: If the inputs are no logits of one shape.
    """
    check_logits(preds_S=preds_S, preds_T=preds_T)
    check_same_shape(preds_S, preds_T)
    log_q, log_p = preds_S.log_softmax(dim=1), preds_T.log_softmax(dim=1)
    return -mean_or_zero((log_p.exp() * (log_p - log_q)).sum(dim=1))


@full_precision
def balance_loss(preds_T: Tensor, base: float = math.e) -> Tensor:
    r"""Compute minus the entropy of the mean of the teacher's answers.

    .. math::
        L = \sum_k \bar p_k \log \bar p_k, \qquad
        \bar p = \operatorname{mean}_b \mathrm{softmax}(t_b)

    Minimised, all classes are made equally often. The term is in the
    paper's appendix alone, but has weight 10 in the official code, in bits
    (``base=2``). As other implementations measure it in nats, that is the
    default here: weight 10 in bits is ``10 / math.log(2)``, about 14.4, in
    nats.

    The official form is NaN, also at weight 0, once a class underflows in the
    whole batch; here :math:`\log \bar p` is a logsumexp, and such a class
    adds 0. With maps of logits the mean is over the positions as well
    (inferred). The mean is that of one process, as in the official code.

    Args:
        preds_T (Tensor): Teacher logits of synthetic images, finite, shape
            ``(B, K)`` or ``(B, K, H, W)``; the gradient flows into them.
        base (float): Of the logarithm, greater than 1. Defaults to e.

    Returns:
        Tensor: A scalar between minus the log of K and 0; float32, float64
        for float64.

    Raises:
        ValueError: If the input are no logits or the base is out of range.
    """
    check_logits(preds_T=preds_T)
    check_number('base', base, above=1)
    # The logarithm of the mean of nothing would be -inf.
    if not preds_T.shape[0]:
        return preds_T.sum()
    log_p = preds_T.log_softmax(dim=1).transpose(0, 1).flatten(1)
    log_mean = log_p.logsumexp(dim=1) - math.log(log_p.shape[1])
    return (log_mean.exp() * log_mean).sum() / math.log(base)
