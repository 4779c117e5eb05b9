"""ShuffleNetV2 at 32x32."""

from collections.abc import Sequence
from typing import Optional, Union

from mmengine.registry import MODELS
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from torch import Tensor, nn

from .cifar_backbone import CifarBackbone

# Channels and blocks of the stages.
STAGES = ((116, 4), (232, 8), (464, 4))
# PyTorch's own initialisation, which mmcv's ConvModule replaces by another.
PYTORCH_DEFAULT = dict(
    type='Kaiming',
    layer='Conv2d',
    a=5**0.5,
    mode='fan_in',
    nonlinearity='leaky_relu',
    distribution='uniform',
)


@MODELS.register_module()
class CifarShuffleNetV2(CifarBackbone):
    """ShuffleNetV2 of width 1.

    Reference:
        Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN
        Architecture Design, ECCV 2018, https://arxiv.org/abs/1807.11164. As
        in RepDistiller, the stem is a 1x1 convolution without stride or
        pooling. The blocks are mmpretrain's.

    Args:
        out_indices (Sequence[int]): Stages whose maps are returned,
            ascending: 0 to 2 are the stages of blocks, 3 is the last 1x1
            convolution, normalised and rectified, which is pooled. At 32x32
            they are 16x16, 8x8, 4x4 and 4x4. Defaults to ``(3,)``.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            the published one, which is PyTorch's.

    Raises:
        ValueError: If ``out_indices`` are no ascending indices of stages.

    Example:
        >>> import torch
        >>> CifarShuffleNetV2()(torch.rand(2, 3, 32, 32))[0].shape
        torch.Size([2, 1024, 4, 4])
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (3,),
        init_cfg: Optional[Union[dict, list[dict]]] = PYTORCH_DEFAULT,
    ) -> None:
        super().__init__(4, out_indices, init_cfg)
        channels = 24
        self.conv1 = nn.Conv2d(3, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        for stage, (out_channels, blocks) in enumerate(STAGES):
            layer = [InvertedResidual(channels, out_channels, stride=2)]
            for _ in range(1, blocks):
                layer.append(InvertedResidual(out_channels, out_channels))
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layer))
            channels = out_channels
        self.conv2 = nn.Conv2d(channels, 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of the three stages and of the last layer."""
        x = self.relu(self.bn1(self.conv1(x)))
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        last = self.relu(self.bn2(self.conv2(third)))
        return [first, second, third, last]
