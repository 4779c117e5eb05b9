"""Squared distance of generated features to the teacher's."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number, check_same_shape
from mmkd_plugin.utils.precision import full_precision

from .reduction import reduce_samples


@full_precision
def mgd_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Compute :math:`\frac{1}{N} \sum (f_S - f_T)^2`.

    Args:
        preds_S (Tensor): Features generated from the student's, shape ``(N,
            C, H, W)``.
        preds_T (Tensor): Teacher features, same shape; no gradient flows
            into them.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the shapes differ.
    """
    check_same_shape(
        preds_S,
        preds_T,
        hint='; put an MGDConnector on the student side of the mapping',
    )
    return reduce_samples((preds_S - preds_T.detach()).square(), 'batchmean')


@MODELS.register_module()
class MGDLoss(nn.Module):
    r"""Masked generative distillation: its distance.

    Masking and generation are :class:`MGDConnector`, which stands on the
    student's side of the mapping.

    Reference:
        Yang et al., Masked Generative Distillation, ECCV 2022,
        https://arxiv.org/abs/2205.01529, equation 4: a sum over the map,
        the mean over the batch. Its weights belong to that sum: 7e-5 for
        ImageNet classification with ``MGDConnector(mask_on='channel',
        mask_ratio=0.15)``, 5e-7 for two-stage detectors with
        ``mask_on='spatial', mask_ratio=0.45``.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If ``loss_weight`` is no finite number.

    Examples:
        >>> import torch
        >>> MGDLoss()(torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)).item()
        12.0
    """

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Generated features, shape ``(N, C, H, W)``.
            preds_T (Tensor): Teacher features, same shape.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * mgd_loss(preds_S, preds_T)
