"""ShuffleNet at 32x32."""

from collections.abc import Sequence
from typing import Optional, Union

import torch
from mmengine.registry import MODELS
from mmpretrain.models.utils import channel_shuffle
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from .cifar_backbone import CifarBackbone, stem_conv

GROUPS = 3
# Channels and blocks of the stages.
STAGES = ((240, 4), (480, 8), (960, 4))


@MODELS.register_module()
class CifarShuffleNetV1(CifarBackbone):
    """ShuffleNet with 3 groups.

    Reference:
        Zhang et al., ShuffleNet: An Extremely Efficient Convolutional
        Neural Network for Mobile Devices, CVPR 2018,
        https://arxiv.org/abs/1707.01083. As in RepDistiller: a stem of a
        1x1 convolution without stride or pooling; a ReLU after the depthwise
        convolution too, and shuffling before it; a first block of a stage
        that concatenates its branch, whose bottleneck is a quarter of the
        branch and not of the block's output, and then the pooled input. The
        very first 1x1 convolution has one group, and nothing is shuffled
        after it. mmpretrain's ``ShuffleUnit`` differs in these points.

    Args:
        out_indices (Sequence[int]): Stages whose maps are returned,
            ascending. At 32x32 they are 16x16, 8x8 and 4x4, after the ReLU.
            Defaults to ``(2,)``.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            None, which keeps PyTorch's, as published.
        stem (str): ``'cifar'``, or ``'large'`` for images of 224x224, as in
            SDD: a first convolution of 7x7 with a stride of 2. The maps of
            such images are 56x56, 28x28 and 14x14. Defaults to
            ``'cifar'``.

    Raises:
        ValueError: If ``out_indices`` are no ascending indices of stages, or
            ``stem`` is neither of the two.

    Example:
        >>> import torch
        >>> CifarShuffleNetV1()(torch.rand(2, 3, 32, 32))[0].shape
        torch.Size([2, 960, 4, 4])
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (2,),
        init_cfg: Optional[Union[dict, list[dict]]] = None,
        *,
        stem: str = 'cifar',
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        channels = 24
        self.conv1 = stem_conv(stem, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        for stage, (out_channels, blocks) in enumerate(STAGES):
            layer = [
                _ShuffleBlock(
                    channels,
                    out_channels - channels,
                    stride=2,
                    first_groups=1 if stage == 0 else GROUPS,
                )
            ]
            for _ in range(1, blocks):
                layer.append(_ShuffleBlock(out_channels, out_channels))
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layer))
            channels = out_channels

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of the three stages, each after its ReLU."""
        x = self.relu(self.bn1(self.conv1(x)))
        first = self.layer1(x)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]


class _ShuffleBlock(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; then add or join.

    ``out_channels`` are those of the branch. With a stride of 2 the block
    returns them and the pooled input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        first_groups: int = GROUPS,
    ) -> None:
        super().__init__()
        channels = out_channels // 4
        self.stride = stride
        self.first_groups = first_groups
        self.conv1 = nn.Conv2d(
            in_channels, channels, 1, groups=first_groups, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(
            channels,
            channels,
            3,
            stride,
            padding=1,
            groups=channels,
            bias=False,
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(
            channels, out_channels, 1, groups=GROUPS, bias=False
        )
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        if self.first_groups > 1:
            out = channel_shuffle(out, self.first_groups)
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return self.relu(out + x)
        pooled = avg_pool2d(x, 3, stride=2, padding=1)
        return self.relu(torch.cat((out, pooled), dim=1))
