"""From features to one row a sample, and to rows of length 1."""

import torch
from torch import Tensor

from mmkd_plugin.utils.checks import check_tensors

# Below this a length is not divided by, so that noise is not blown up.
_SHORTEST = 1e-12


def sample_rows(preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten the features of student and teacher to one row a sample.

    Args:
        preds_S (Tensor): Student features, shape ``(N, *)``.
        preds_T (Tensor): Teacher features, shape ``(N, *)``; the sizes of a
            sample may differ.

    Returns:
        tuple[Tensor, Tensor]: Shapes ``(N, D)`` and ``(N, D')``, the
        teacher's detached.

    Raises:
        ValueError: If one is no tensor or has no batch dimension, or if the
            batch sizes differ.
    """
    check_tensors(preds_S=preds_S, preds_T=preds_T)
    for name, preds in dict(preds_S=preds_S, preds_T=preds_T).items():
        if preds.dim() < 2:
            raise ValueError(
                f'{name} must have the shape (N, *), one row or map a sample,'
                f' but got {tuple(preds.shape)}'
            )
    if preds_S.shape[0] != preds_T.shape[0]:
        raise ValueError(
            f'student and teacher must have the same batch size, but got '
            f'{preds_S.shape[0]} and {preds_T.shape[0]}'
        )
    return preds_S.flatten(1), preds_T.detach().flatten(1)


def unit_rows(rows: Tensor, eps: float = 0.0) -> Tensor:
    """Divide vectors by their lengths.

    A vector of zeros has no direction: it stays zero, and so does its
    gradient, which is 1e12 times too large where only the divisor is kept
    from zero.

    Args:
        rows (Tensor): Vectors in the last dimension.
        eps (float): Added to the lengths. Defaults to 0.0.

    Returns:
        Tensor: Same shape.
    """
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    units = rows / (lengths + eps).clamp_min(_SHORTEST)
    return units.masked_fill(lengths == 0, 0)
