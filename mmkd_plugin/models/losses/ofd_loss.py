"""Distillation of features in front of their ReLU."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_same_shape,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

from .pooled_maps import check_maps

MARGIN_FORMS = ('formula', 'released')
# From here on the difference below has lost more digits than the series has.
_FAR = 100.0


@torch.no_grad()
def ofd_margin(
    bn_weight: Tensor, bn_bias: Tensor, margin_form: str = 'formula'
) -> Tensor:
    r"""Compute the mean of a channel's negative values, from its BN layer.

    Behind a BN layer a channel is taken for normal with the mean
    :math:`\beta` and the deviation :math:`\sigma = |\gamma|`:

    .. math::
        E[x \mid x < 0] = \beta - \sigma
        \frac{\phi(\beta / \sigma)}{\Phi(-\beta / \sigma)}

    Args:
        bn_weight (Tensor): :math:`\gamma`, shape ``(C,)``.
        bn_bias (Tensor): :math:`\beta`, shape ``(C,)``.
        margin_form (str): ``'formula'`` is the above for all channels, also
            for those that are hardly ever negative, whose margin is almost
            zero. The released code takes :math:`-3 \sigma` for channels that
            are negative with a probability of 0.001 or less: ``'released'``.
            Defaults to ``'formula'``.

    Returns:
        Tensor: The margins, not positive, shape ``(C,)``, dtype of
        ``bn_weight``.
    """
    sigma, mean = bn_weight.double().abs(), bn_bias.double()
    constant = sigma == 0
    z = mean / sigma.masked_fill(constant, 1.0)
    # The ratio of density and tail, without dividing two underflows.
    ratio = math.sqrt(2 / math.pi) / torch.special.erfcx(z / math.sqrt(2))
    series = 1 / z - 2 / z**3 + 10 / z**5
    excess = torch.where(z > _FAR, series, ratio - z)
    margin = torch.where(constant, mean.clamp(max=0), -sigma * excess)
    if margin_form == 'released':
        rare = torch.special.erfc(z / math.sqrt(2)) / 2 <= 0.001
        margin = torch.where(rare, -3 * sigma, margin)
    return margin.to(bn_weight.dtype)


@full_precision
def ofd_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    bn_weight: Tensor,
    bn_bias: Tensor,
    margin_form: str = 'formula',
) -> Tensor:
    r"""Sum the squared distances to the margin-ReLU of the teacher.

    .. math::
        L = \frac{1}{N} \sum (s - t')^2 \, [s > t' \text{ or } t' > 0],
        \qquad t' = \max(t, m_c)

    with the margin :math:`m_c` of :func:`ofd_margin`. Where the teacher is
    not active, a student that is lower than the margin is left alone.

    Args:
        preds_S (Tensor): Student maps in front of the ReLU, shape ``(N, C,
            H, W)``.
        preds_T (Tensor): Teacher maps in front of the ReLU, same shape; no
            gradient flows into them.
        bn_weight (Tensor): Weight of the teacher's BN layer, shape ``(C,)``.
        bn_bias (Tensor): Its bias, shape ``(C,)``.
        margin_form (str): ``'formula'`` or ``'released'``, see
            :func:`ofd_margin`. Defaults to ``'formula'``.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_maps(preds_S, preds_T)
    check_same_shape(
        preds_S,
        preds_T,
        hint='; put a ConvConnector on the student side of the mapping',
    )
    check_tensors(bn_weight=bn_weight, bn_bias=bn_bias)
    for name, value in dict(bn_weight=bn_weight, bn_bias=bn_bias).items():
        if value.shape != preds_T.shape[1:2]:
            raise ValueError(
                f'{name} must have one value a channel of the teacher, '
                f'{preds_T.shape[1]}, but got the shape {tuple(value.shape)}'
            )
    margin = ofd_margin(bn_weight, bn_bias, margin_form).to(preds_T.dtype)
    target = torch.maximum(preds_T.detach(), margin.view(1, -1, 1, 1))
    # A student that is left alone is its own target, so that no mask goes
    # through the graph. Arithmetic takes a tenth of the time that a choice
    # by a mask takes on a CPU; and a NaN stays one.
    lower = torch.minimum(target, preds_S.detach())
    active = target.sign().clamp_(min=0)
    target = torch.lerp(lower, target, active)
    total = mse_loss(preds_S, target, reduction='sum')
    return total / max(preds_S.shape[0], 1)


@MODELS.register_module()
class OFDLoss(nn.Module):
    r"""Overhaul of feature distillation: margin-ReLU and partial distance.

    Map one instance for each stage. The features are those in front of the
    ReLU, on the student's side behind a 1x1 convolution with BN; the margins
    are those of the teacher's last BN layer of the stage, read by recorders
    of its parameters::

        teacher_recorders=dict(
            pre=dict(type='ModuleOutputs', source='backbone.layer3.1.bn2'),
            weight=dict(type='Parameter',
                        source='backbone.layer3.1.bn2.weight'),
            bias=dict(type='Parameter', source='backbone.layer3.1.bn2.bias')),
        loss_forward_mappings=dict(loss_ofd=dict(
            preds_S=dict(from_student=True, recorder='pre', connector='c'),
            preds_T=dict(from_student=False, recorder='pre'),
            bn_weight=dict(from_student=False, recorder='weight'),
            bn_bias=dict(from_student=False, recorder='bias')))

    Where a residual is added between that BN layer and the ReLU, the
    features are the inputs of the ReLU (``ModuleInputs``); the margins of
    the published code are still those of the BN layer.

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV
        2019, https://arxiv.org/abs/1904.01866, equations 2 to 4. The
        published weights are 1e-3 (CIFAR-100) or 1e-4 (ImageNet) at the
        last stage and half of the next stage's at each one before. The
        margins of the published code differ from the equation for channels
        that are rarely negative: that is ``margin_form='released'``.
        Deviation: the teacher of the released code normalises by batches
        while the student is trained, ours never does.

    Args:
        margin_form (str): ``'formula'`` or ``'released'``, see
            :func:`ofd_margin`. Defaults to ``'formula'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> preds_S = torch.tensor([[[[-3.0, 2.0]]]])
        >>> preds_T = torch.tensor([[[[-9.0, 5.0]]]])
        >>> OFDLoss()(preds_S, preds_T, torch.ones(1), torch.zeros(1)).item()
        9.0
    """

    def __init__(
        self, *, margin_form: str = 'formula', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.margin_form = check_choice(
            'margin_form', margin_form, MARGIN_FORMS
        )
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        bn_weight: Tensor,
        bn_bias: Tensor,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
            preds_T (Tensor): Teacher maps, same shape.
            bn_weight (Tensor): Weight of the teacher's BN layer, ``(C,)``.
            bn_bias (Tensor): Its bias, ``(C,)``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * ofd_loss(
            preds_S, preds_T, bn_weight, bn_bias, self.margin_form
        )
