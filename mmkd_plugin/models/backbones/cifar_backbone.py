"""What the CIFAR networks share."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Optional, Union

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_choice

# N(0, 2 / (k * k * out_channels)) for convolutions, as RepDistiller has it
# for all networks but the shuffled ones.
KAIMING_FAN_OUT = [
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', layer='_BatchNorm', val=1),
]


def stem_conv(
    stem: str, channels: int, kernel_size: int, stride: int = 1
) -> nn.Conv2d:
    """Build the first convolution of a network, for small or large images.

    Reference:
        ``'large'`` is what ``train_origin.py`` of
        https://github.com/shicaiwei123/SDD-CVPR2024 puts in its place for
        images of 224x224 (commit 43814ca). What follows it stays.

    Args:
        stem (str): ``'cifar'`` for the layer of the published network, or
            ``'large'`` for one of 7x7 with a stride of 2.
        channels (int): Output channels.
        kernel_size (int): Side of the published layer's kernel, odd.
        stride (int): Stride of the published layer. Defaults to 1.

    Returns:
        nn.Conv2d: The convolution, without bias.

    Raises:
        ValueError: If ``stem`` is neither.
    """
    check_choice('stem', stem, ('cifar', 'large'))
    if stem == 'large':
        kernel_size, stride = 7, 2
    return nn.Conv2d(
        3,
        channels,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        bias=False,
    )


class CifarBackbone(BaseBackbone):
    """A backbone that returns the maps of chosen stages.

    Args:
        num_stages (int): How many stages the network has.
        out_indices (Sequence[int]): Which stages are returned, ascending.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            None, which keeps that of the layers.

    Raises:
        ValueError: If ``out_indices`` are no ascending indices of stages.
    """

    def __init__(
        self,
        num_stages: int,
        out_indices: Sequence[int],
        init_cfg: Optional[Union[dict, list[dict]]] = None,
    ) -> None:
        super().__init__(init_cfg)
        stages = range(num_stages)
        good = (
            isinstance(out_indices, Sequence)
            and len(out_indices) > 0
            and all(type(index) is int for index in out_indices)
            and all(index in stages for index in out_indices)
            and sorted(set(out_indices)) == list(out_indices)
        )
        if not good:
            raise ValueError(
                f'out_indices of {type(self).__name__} must be ascending '
                f'indices of its stages, 0 to {num_stages - 1}, such as '
                f'({num_stages - 1},), but got {out_indices!r}'
            )
        self.out_indices = tuple(out_indices)

    @abstractmethod
    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of all stages.

        Args:
            x (Tensor): Normalised images, shape ``(B, 3, H, W)``.

        Returns:
            list[Tensor]: A map of each stage; the last one is what the
            classifier pools.
        """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the chosen stages.

        Args:
            x (Tensor): Normalised images, shape ``(B, 3, H, W)``.

        Returns:
            tuple[Tensor, ...]: One map for each of ``out_indices``.
        """
        outputs = self.stage_outputs(x)
        return tuple(outputs[index] for index in self.out_indices)

    def train(self, mode: bool = True) -> 'CifarBackbone':
        """Set the mode and return the network.

        mmpretrain's ``BaseBackbone`` returns None, so that ``model.eval()``
        could not be chained.

        Args:
            mode (bool): Training mode or not. Defaults to True.

        Returns:
            CifarBackbone: The network itself.
        """
        super().train(mode)
        return self
