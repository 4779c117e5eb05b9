"""Wide residual networks."""

from collections.abc import Sequence
from typing import Optional, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_choice

from .cifar_backbone import KAIMING_FAN_OUT, CifarBackbone

# Blocks a stage.
BLOCKS = {6 * n + 4: n for n in range(1, 7)}


@MODELS.register_module()
class CifarWideResNet(CifarBackbone):
    """WRN-16-1, 16-2, 40-1, 40-2, and others of the family.

    Reference:
        Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016,
        https://arxiv.org/abs/1605.07146. As in RepDistiller, without
        dropout. Normalisation and ReLU come before each convolution; where
        a block changes the number of channels, its shortcut is a bare 1x1
        convolution, which sees the normalised and rectified map.

    Args:
        depth (int): 10, 16, 22, 28, 34 or 40.
        widen_factor (int): Width of the stages in units of 16, 32 and 64
            channels: 1, 2, 4, 8 or 10. The stem has 16 channels at every
            width. Defaults to 1.
        out_indices (Sequence[int]): Stages whose maps are returned,
            ascending. At 32x32 they are 32x32, 16x16 and 8x8. The last one
            is after the last normalisation and its ReLU; the first two are
            sums before any, as there is none at the end of a stage, and so
            is the output of the module ``layer3``. Defaults to ``(2,)``.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            the published one.

    Raises:
        ValueError: If an option is none of the values above.

    Example:
        >>> import torch
        >>> net = CifarWideResNet(16, widen_factor=2)
        >>> net(torch.rand(2, 3, 32, 32))[0].shape
        torch.Size([2, 128, 8, 8])
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int = 1,
        out_indices: Sequence[int] = (2,),
        init_cfg: Optional[Union[dict, list[dict]]] = KAIMING_FAN_OUT,
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        check_choice('depth', depth, BLOCKS)
        check_choice('widen_factor', widen_factor, (1, 2, 4, 8, 10))
        channels = 16
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for stage in range(3):
            out_channels = 16 * widen_factor * 2**stage
            blocks = [
                _PreActBlock(channels, out_channels, 1 if stage == 0 else 2)
            ]
            for _ in range(1, BLOCKS[depth]):
                blocks.append(_PreActBlock(out_channels, out_channels, 1))
            self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))
            channels = out_channels
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of the three stages, the last after its ReLU."""
        first = self.layer1(self.conv1(x))
        second = self.layer2(first)
        return [first, second, self.relu(self.bn1(self.layer3(second)))]


class _PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(
            in_channels, out_channels, 3, stride, padding=1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(
            out_channels, out_channels, 3, padding=1, bias=False
        )
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Conv2d(
                in_channels, out_channels, 1, stride, bias=False
            )

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        if self.downsample is not None:
            x = self.downsample(active)
        return x + self.conv2(self.relu(self.bn2(self.conv1(active))))
