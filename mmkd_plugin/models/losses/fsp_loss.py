"""Distillation of how features turn into each other between two layers."""

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    mse_loss,
)

from mmkd_plugin.utils.checks import (
    check_choice,
    check_number,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

POOLS = dict(avg=adaptive_avg_pool2d, max=adaptive_max_pool2d)


def _flow(bottom: Tensor, top: Tensor, pool: str) -> Tensor:
    """Products of the channels of two layers, shape ``(N, C, C')``."""
    size = tuple(map(min, bottom.shape[2:], top.shape[2:]))
    bottom, top = (
        (value if value.shape[2:] == size else POOLS[pool](value, size))
        for value in (bottom, top)
    )
    products = bottom.flatten(2) @ top.flatten(2).transpose(1, 2)
    return products / (size[0] * size[1])


def _check(**maps: Tensor) -> None:
    """Check that all are maps, and those that belong together fit."""
    check_tensors(**maps)
    for name, value in maps.items():
        if value.dim() != 4:
            raise ValueError(
                f'{name} must be a map of shape (N, C, H, W), but got '
                f'{tuple(value.shape)}'
            )
    counts = {name: value.shape[0] for name, value in maps.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f'maps must have the same batch size, got {counts}')
    for place in ('bottom', 'top'):
        ours, theirs = (maps[f'{place}_{side}'].shape[1] for side in 'ST')
        if ours != theirs:
            raise ValueError(
                f'{place}_S and {place}_T must have the same channels, but '
                f'got {ours} and {theirs}; put a ConvConnector on the '
                f'student side of the mapping'
            )


@full_precision
def fsp_loss(
    bottom_S: Tensor,
    top_S: Tensor,
    bottom_T: Tensor,
    top_T: Tensor,
    pool: str = 'avg',
) -> Tensor:
    r"""Compare the flows from one layer to another one.

    .. math::
        L = \frac{1}{N C C'} \sum_n \|G(t_n) - G(s_n)\|_F^2, \qquad
        G_{cc'} = \frac{1}{H W} \sum_{h,w} F^1_{chw} F^2_{c'hw}

    where :math:`F^1` and :math:`F^2` are the maps of a sample at the bottom
    and at the top, the larger one pooled to the size of the other. Invariant
    to one and the same order of places in the maps of both layers.

    Args:
        bottom_S (Tensor): Student maps nearer to the input, shape
            ``(N, C, H, W)``.
        top_S (Tensor): Student maps nearer to the output, shape
            ``(N, C', H', W')``.
        bottom_T (Tensor): Teacher maps, with the channels of ``bottom_S``
            and any height and width; no gradient flows into them.
        top_T (Tensor): Teacher maps, with the channels of ``top_S`` and any
            height and width; no gradient flows into them.
        pool (str): How the larger maps become smaller, ``'avg'`` or
            ``'max'``. Defaults to ``'avg'``.

    Returns:
        Tensor: A scalar, zero for an empty batch; float32, float64 for
        float64.

    Raises:
        ValueError: If they are no maps, or batch sizes or channels differ.
    """
    _check(bottom_S=bottom_S, top_S=top_S, bottom_T=bottom_T, top_T=top_T)
    flow_S = _flow(bottom_S, top_S, pool)
    if not flow_S.numel():
        return flow_S.sum()
    return mse_loss(flow_S, _flow(bottom_T.detach(), top_T.detach(), pool))


@MODELS.register_module()
class FSPLoss(nn.Module):
    r"""Flow of the solution procedure between two layers.

    It takes two taps a side, the input and the output of a stage or two
    stages that follow each other; use one instance for each pair of them.
    In the published form it is the only loss of a first stage of training,
    which the cross entropy follows.

    Reference:
        Yim et al., A Gift from Knowledge Distillation: Fast Optimization,
        Network Minimization and Transfer Learning, CVPR 2017. The paper
        could not be opened. Of the public codes, the CIFAR-100 benchmarks of
        RepDistiller take the mean over the elements of the matrix and average
        pooling (default), with a weight of 1: their option of 50 is for the
        second stage, in which their code has no FSP loss. torchdistill pools
        by the maximum (``pool='max'``).

    Args:
        pool (str): How the larger maps of a pair become smaller, ``'avg'``
            or ``'max'``. Defaults to ``'avg'``.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = FSPLoss()
        >>> bottom, top = torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4)
        >>> loss(bottom, 3 * top, bottom, top).item()
        4.0
    """

    def __init__(self, *, pool: str = 'avg', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.pool = check_choice('pool', pool, POOLS)
        self.loss_weight = check_number('loss_weight', loss_weight)

    def forward(
        self, bottom_S: Tensor, top_S: Tensor, bottom_T: Tensor, top_T: Tensor
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            bottom_S (Tensor): Student maps, shape ``(N, C, H, W)``.
            top_S (Tensor): Student maps, shape ``(N, C', H', W')``.
            bottom_T (Tensor): Teacher maps, with the channels of
                ``bottom_S``.
            top_T (Tensor): Teacher maps, with the channels of ``top_S``.

        Returns:
            Tensor: The loss, a scalar.
        """
        return self.loss_weight * fsp_loss(
            bottom_S, top_S, bottom_T, top_T, self.pool
        )
