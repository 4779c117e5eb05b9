"""Terms of data-free distillation, as pure functions for objectives of one's
own.

They are in the baselines that MosaicKD's authors compare with; nothing here
uses them so far. What these share with MosaicKD are
:func:`~mmkd_plugin.models.losses.kl_divergence` and
:func:`~mmkd_plugin.models.losses.balance_loss`. All compute in float32, or
float64 for float64, whatever autocast says. An empty batch gives a zero that
is attached to the graph.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from mmkd_plugin.utils.checks import (
    check_number,
    check_same_shape,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

from .mosaic_objective import check_logits, mean_or_zero

# Bounds of the probabilities in the published form of the divergence.
_LEAST, _MOST = 0.01, 0.99


@full_precision
def clamped_js_divergence(
    preds_S: Tensor, preds_T: Tensor, tau: float = 1.0
) -> Tensor:
    r"""Compute a Jensen-Shannon-like divergence of bounded probabilities.

    .. math::
        L = \operatorname{mean}_b \tfrac{1}{2} \big(
            \mathrm{KL}(m \| q) + \mathrm{KL}(m \| p) \big), \qquad
        m = (p + q) / 2

    with :math:`p, q` the softmax of the logits over the temperature, and all
    of :math:`p, q, m` then limited to [0.01, 0.99]. No factor
    :math:`\tau^2`.

    Reference:
        Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via
        DeepInversion, CVPR 2020, https://arxiv.org/abs/1912.08795, in the
        form of MosaicKD's repository (none of its published runs uses it).
        There the mean comes first in both divergences, the reverse of
        Jensen and Shannon's, and the bounds leave no distributions: with 100
        or more classes, most probabilities are below the lower one and have
        no gradient.

    Args:
        preds_S (Tensor): Student logits, shape ``(B, K)`` or
            ``(B, K, H, W)``.
        preds_T (Tensor): Teacher logits, same shape. The gradient flows into
            both, as in a generator's objective both are functions of the
            image.
        tau (float): Temperature. Defaults to 1.0.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the inputs are no logits of one shape, or the
            temperature is not positive.
    """
    check_logits(preds_S=preds_S, preds_T=preds_T)
    check_same_shape(preds_S, preds_T)
    check_number('tau', tau, above=0)
    q, p = (preds_S / tau).softmax(dim=1), (preds_T / tau).softmax(dim=1)
    m = ((p + q) / 2).clamp(_LEAST, _MOST)
    log_q, log_p = (x.clamp(_LEAST, _MOST).log() for x in (q, p))
    return mean_or_zero((m * (m.log() - (log_q + log_p) / 2)).sum(dim=1))


@full_precision
def one_hot_loss(preds_T: Tensor) -> Tensor:
    r"""Compute the teacher's cross entropy with its own answer.

    .. math::
        L = - \operatorname{mean}_b \log \max_k \mathrm{softmax}(t_b)_k

    Reference:
        Chen et al., Data-Free Learning of Student Networks, ICCV 2019,
        https://arxiv.org/abs/1904.01186.

    Args:
        preds_T (Tensor): Teacher logits of synthetic images, shape
            ``(B, K)`` or ``(B, K, H, W)``; the gradient flows into them.

    Returns:
        Tensor: A scalar, the mean over images and positions; float32,
        float64 for float64.

    Raises:
        ValueError: If the input are no logits.
    """
    check_logits(preds_T=preds_T)
    answers = preds_T.argmax(dim=1)
    return mean_or_zero(cross_entropy(preds_T, answers, reduction='none'))


@full_precision
def total_variation_l1(images: Tensor) -> Tensor:
    r"""Compute the mean absolute differences of neighbouring pixels.

    .. math::
        L = \sum_{d} \operatorname{mean}_{b, c, x} | I_{bc}(x) -
            I_{bc}(x + d) |

    over the four directions :math:`d`: right, down and the two diagonals.

    Reference:
        Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via
        DeepInversion, CVPR 2020, https://arxiv.org/abs/1912.08795, as one of
        the image priors in MosaicKD's repository.

    Args:
        images (Tensor): Shape ``(B, C, H, W)``. The loss has their unit.

    Returns:
        Tensor: A scalar, where a direction without neighbours adds zero;
        float32, float64 for float64.

    Raises:
        ValueError: If the input is no batch of floating point images.
    """
    check_tensors(images=images)
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f'images must be a floating point tensor of shape (B, C, H, W), '
            f'but got {images.dtype} of shape {tuple(images.shape)}'
        )
    upper, lower = images[:, :, :-1], images[:, :, 1:]
    differences = (
        images[..., 1:] - images[..., :-1],
        lower - upper,
        lower[..., 1:] - upper[..., :-1],
        lower[..., :-1] - upper[..., 1:],
    )
    return sum(mean_or_zero(difference.abs()) for difference in differences)
