"""Distillation of features by a bound of their mutual information."""

import math

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_count,
    check_number,
    check_same_shape,
)
from mmkd_plugin.utils.precision import full_precision


@full_precision
def vid_loss(
    preds_S: Tensor, preds_T: Tensor, log_scale: Tensor, eps: float = 1e-5
) -> Tensor:
    r"""Compute the negative log-likelihood of the teacher's features.

    .. math::
        L = \mathrm{mean}\Big(\frac{(t - \mu)^2}{2 \sigma_c^2} + \frac{1}{2}
        \log \sigma_c^2\Big), \qquad
        \sigma_c^2 = \log(1 + e^{\alpha_c}) + \epsilon

    without the constant :math:`\log \sqrt{2 \pi}`; it can be negative.

    Args:
        preds_S (Tensor): The mean :math:`\mu` that the student predicts,
            shape ``(N, C, *)``.
        preds_T (Tensor): Teacher features, same shape; no gradient flows
            into them.
        log_scale (Tensor): :math:`\alpha`, shape ``(C,)``.
        eps (float): Lowest variance. Defaults to 1e-5.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_same_shape(
        preds_S,
        preds_T,
        hint='; put ConvConnectors on the student side of the mapping',
    )
    if preds_S.dim() < 2 or log_scale.shape != preds_S.shape[1:2]:
        raise ValueError(
            f'features must have the shape (N, {len(log_scale)}, *), as '
            f'there are {len(log_scale)} variances, but got '
            f'{tuple(preds_S.shape)}'
        )
    if preds_S.numel() == 0:
        return preds_S.sum() + 0 * log_scale.sum()
    variance = torch.nn.functional.softplus(log_scale) + eps
    shape = (1, -1) + (1,) * (preds_S.dim() - 2)
    square = (preds_S - preds_T.detach()).square() / variance.view(shape)
    # Every channel has as many elements: the logarithm once a channel.
    return (square.mean() + variance.log().mean()) / 2


@MODELS.register_module()
class VIDLoss(nn.Module):
    r"""Variational information distillation.

    The variances of the channels are learned with the student. Its means
    come from a regressor on the student's side of the mapping, in the
    published code three 1x1 convolutions::

        connectors=dict(mean=[
            dict(type='ConvConnector', in_channels=64, out_channels=256,
                 act_cfg=dict(type='ReLU')),
            dict(type='ConvConnector', in_channels=256, out_channels=256,
                 act_cfg=dict(type='ReLU')),
            dict(type='ConvConnector', in_channels=256, out_channels=256)])

    Reference:
        Ahn et al., Variational Information Distillation for Knowledge
        Transfer, CVPR 2019, https://arxiv.org/abs/1904.05835, equations 3
        to 6. The common CIFAR-100 code has a weight of 1 for each stage,
        convolutions without bias, and averages the larger of the two maps
        over the cells of the smaller in front of the regressor; here a
        larger student takes a ``stride`` in the first convolution.

    Args:
        num_channels (int): Channels of the teacher.
        init_variance (float): Variance before training, more than ``eps``.
            Defaults to 5.0.
        eps (float): Lowest variance. Defaults to 1e-5.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = VIDLoss(num_channels=3, init_variance=1.0)
        >>> value = loss(torch.zeros(2, 3), 2 * torch.ones(2, 3))
        >>> round(value.item(), 4)
        2.0
    """

    def __init__(
        self,
        *,
        num_channels: int,
        init_variance: float = 5.0,
        eps: float = 1e-5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_count('num_channels', num_channels)
        self.eps = check_number('eps', eps, above=0)
        check_number('init_variance', init_variance, above=eps)
        self.loss_weight = check_number('loss_weight', loss_weight)
        # The inverse of softplus, which would overflow as log(exp(x) - 1).
        start = init_variance - eps
        start += math.log(-math.expm1(-start))
        self.log_scale = nn.Parameter(torch.full((num_channels,), start))

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Means, shape ``(N, num_channels, *)``.
            preds_T (Tensor): Teacher features, same shape.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * vid_loss(
            preds_S, preds_T, self.log_scale, self.eps
        )
