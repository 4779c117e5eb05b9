"""Standardise the logits of every sample."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number, check_tensors
from mmkd_plugin.utils.precision import full_precision


@full_precision
def logit_standardization(logits: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Compute :math:`(z - \bar z) / (\sigma(z) + \epsilon)` over classes.

    Args:
        logits (Tensor): Logits, shape ``(N, C, *)``, ``C >= 2``.
        eps (float): What keeps equal logits finite. Defaults to 1e-7.

    Returns:
        Tensor: Same shape; float32, float64 for float64. :math:`\sigma` is
        the unbiased standard deviation. Equal logits become zeros, with a
        gradient of zero.

    Raises:
        ValueError: If ``logits`` is no tensor of at least two classes.
    """
    check_tensors(logits=logits)
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise ValueError(
            f'logits must have the shape (N, C, *) with C >= 2, but got '
            f'{tuple(logits.shape)}'
        )
    # Equal logits are zeros from here on; minus their rounded mean they would
    # be noise, which the deviation would blow up.
    logits = logits - logits.narrow(1, 0, 1)
    centred = logits - logits.mean(dim=1, keepdim=True)
    square = centred.square().sum(dim=1, keepdim=True)
    flat = square == 0
    # The root has no finite slope at zero.
    deviation = (square / (logits.shape[1] - 1)).masked_fill(flat, 1.0).sqrt()
    return (centred / (deviation + eps)).masked_fill(flat, 0.0)


@MODELS.register_module()
class LogitStandardization(nn.Module):
    r"""Z-score of the logits, on both sides before any logit loss.

    The loss then compares the relations between the logits of a sample, not
    their magnitude: it is invariant to :math:`a z + b` with :math:`a > 0` on
    either side. Map it as the connector of both ``preds_S`` and ``preds_T``.

    Reference:
        Sun et al., Logit Standardization in Knowledge Distillation, CVPR
        2024, https://arxiv.org/abs/2403.01427, algorithm 1. Its published
        code uses the unbiased standard deviation and ``eps=1e-7``, then KD
        with a temperature of 2 and a weight of 9 (other values for some
        pairs).

    Args:
        eps (float): What keeps equal logits finite. Defaults to 1e-7.

    Raises:
        ValueError: If ``eps`` is not positive.

    Examples:
        >>> import torch
        >>> LogitStandardization()(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[-1.0000,  0.0000,  1.0000]])
    """

    def __init__(self, *, eps: float = 1e-7) -> None:
        super().__init__()
        self.eps = check_number('eps', eps, above=0)

    def forward(self, logits: Tensor) -> Tensor:
        """Standardise the logits.

        Args:
            logits (Tensor): Logits, shape ``(N, C, *)``.

        Returns:
            Tensor: Same shape and dtype.
        """
        standardised = logit_standardization(logits, self.eps)
        return standardised.to(logits.dtype)
