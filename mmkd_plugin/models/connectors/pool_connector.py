"""Average a feature map over the cells of a smaller one."""

from typing import Union

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmkd_plugin.utils.checks import check_tensors


def check_size(name: str, value: Union[int, tuple]) -> tuple[int, int]:
    """Get the height and width that an option gives.

    Args:
        name (str): What the option is called in the message.
        value (int or tuple[int, int]): One number for both, or a pair.

    Returns:
        tuple[int, int]: Height and width.

    Raises:
        ValueError: If it is neither, or a side is less than 1.
    """
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
        raise ValueError(
            f'{name} must be a positive integer or a height and a width, but '
            f'got {value!r}'
        )
    return pair


@MODELS.register_module()
class PoolConnector(nn.Module):
    """Average a feature map over the cells of a smaller one.

    It has no parameters. Put it on the side whose maps are larger, where a
    loss takes two of one size. With ``size=1`` it makes the pooled feature,
    as a map of one place.

    Args:
        size (int or tuple[int, int]): Height and width of the smaller map,
            or one number for both. A side of a map that is not larger stays
            as it is.

    Raises:
        ValueError: If ``size`` is neither, or a side is less than 1.

    Examples:
        >>> import torch
        >>> feature = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
        >>> PoolConnector(size=(1, 2))(feature)
        tensor([[[[3., 5.]]]])
    """

    def __init__(self, *, size: Union[int, tuple[int, int]]) -> None:
        super().__init__()
        self.size = check_size('size', size)

    def forward(self, feature: Tensor) -> Tensor:
        """Pool the feature.

        Args:
            feature (Tensor): Shape ``(N, C, H, W)``.

        Returns:
            Tensor: Shape ``(N, C, H', W')``, no side larger than ``size``;
            same dtype.

        Raises:
            ValueError: If ``feature`` is no such tensor.
        """
        check_tensors(feature=feature)
        if feature.dim() != 4:
            raise ValueError(
                f'feature must have the shape (N, C, H, W), but got '
                f'{tuple(feature.shape)}'
            )
        sides = zip(feature.shape[2:], self.size, strict=True)
        size = tuple(min(pair) for pair in sides)
        if feature.shape[2:] == size:
            return feature
        return adaptive_avg_pool2d(feature, size)
