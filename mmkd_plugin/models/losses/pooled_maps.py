"""Feature maps of different sizes, brought to one."""

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mmkd_plugin.utils.checks import check_tensors


def check_maps(preds_S: Tensor, preds_T: Tensor) -> None:
    """Check that student and teacher have feature maps of one batch.

    Args:
        preds_S (Tensor): The student's.
        preds_T (Tensor): The teacher's.

    Raises:
        ValueError: If they are not of shape ``(N, C, H, W)``, or the batch
            sizes differ.
    """
    check_tensors(preds_S=preds_S, preds_T=preds_T)
    for name, preds in dict(preds_S=preds_S, preds_T=preds_T).items():
        if preds.dim() != 4:
            raise ValueError(
                f'{name} must be feature maps of shape (N, C, H, W), but got '
                f'{tuple(preds.shape)}'
            )
    if preds_S.shape[0] != preds_T.shape[0]:
        raise ValueError(
            f'student and teacher must have the same batch size, but got '
            f'{preds_S.shape[0]} and {preds_T.shape[0]}'
        )


def pool_to_smaller(preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
    """Average the larger of two maps over the cells of the smaller.

    Args:
        preds_S (Tensor): Student maps, shape ``(N, C, H, W)``.
        preds_T (Tensor): Teacher maps, shape ``(N, C', H', W')``.

    Returns:
        tuple[Tensor, Tensor]: The student's and the teacher's, of the size
        ``(min(H, H'), min(W, W'))``. Maps of that size stay what they are.
    """
    sizes = zip(preds_S.shape[2:], preds_T.shape[2:], strict=True)
    size = tuple(min(pair) for pair in sizes)
    pooled = [
        preds if preds.shape[2:] == size else adaptive_avg_pool2d(preds, size)
        for preds in (preds_S, preds_T)
    ]
    return pooled[0], pooled[1]
