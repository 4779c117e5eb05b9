"""Distillation of which samples activate the network alike."""

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mmkd_plugin.utils.checks import check_number
from mmkd_plugin.utils.precision import full_precision

from .sample_rows import sample_rows, unit_rows


@full_precision
def sp_loss(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Compare the similarities of the samples of a batch.

    .. math::
        L = \frac{1}{N^2} \|\tilde G_T - \tilde G_S\|_F^2, \qquad
        \tilde G_{i,:} = G_{i,:} / \|G_{i,:}\|_2, \qquad G = F F^\top

    Invariant to rotation and scale of either side, not to a shift. A single
    sample is like itself alone: the loss is zero, attached to the graph.

    Args:
        preds_S (Tensor): Student features, shape ``(N, *)``; what follows
            the batch size is flattened.
        preds_T (Tensor): Teacher features, shape ``(N, *)``, of any other
            size; no gradient flows into them.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Raises:
        ValueError: If the batch sizes differ.
    """
    rows_S, rows_T = sample_rows(preds_S, preds_T)
    if rows_S.shape[0] < 2:
        return rows_S[:0].sum()
    return mse_loss(
        unit_rows(rows_S @ rows_S.t()), unit_rows(rows_T @ rows_T.t())
    )


@MODELS.register_module()
class SPLoss(nn.Module):
    r"""Similarity-preserving knowledge distillation.

    The similarities are those of the local batch: with several processes,
    each compares its own samples. For several layers, use one instance for
    each; the published benchmarks take the maps of the last stage.

    Reference:
        Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV
        2019, https://arxiv.org/abs/1907.09682, equations 1 to 4. The
        published CIFAR-100 benchmarks add it to the cross entropy with
        ``loss_weight=3000``.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If the weight is no finite number.

    Examples:
        >>> import torch
        >>> loss = SPLoss()
        >>> loss(torch.eye(2), torch.ones(2, 3)).item()
        0.292893...
    """

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Student features, shape ``(N, *)``.
            preds_T (Tensor): Teacher features, shape ``(N, *)``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * sp_loss(preds_S, preds_T)
