"""MobileNetV2 at 32x32."""

from collections.abc import Sequence
from typing import Optional, Union

from mmcv.cnn import ConvModule
from mmengine.registry import MODELS
from mmpretrain.models.utils import InvertedResidual
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number

from .cifar_backbone import KAIMING_FAN_OUT, CifarBackbone, stem_conv

# Expansion, channels at full width, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@MODELS.register_module()
class CifarMobileNetV2(CifarBackbone):
    """MobileNetV2 of half the width, whose last map is 2x2.

    Reference:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear
        Bottlenecks, CVPR 2018, https://arxiv.org/abs/1801.04381. As in
        RepDistiller: ReLU instead of ReLU6, widths rounded down and not to
        multiples of 8, a stride of 1 in the second stage, and an expanding
        convolution in the first block, though it expands by a factor of 1.
        As in the paper, and unlike in most CIFAR networks, the stem has a
        stride of 2.

    Args:
        width_mult (float): Factor for the channels of all layers but the
            last, which has 1280 channels, or more where the factor is above
            1. Defaults to 0.5, the published network.
        out_indices (Sequence[int]): Stages whose maps are returned,
            ascending: 0 to 6 are the stages of blocks, which end in a
            normalisation without a ReLU; 7 is the last 1x1 convolution,
            normalised and rectified, which is pooled. At 32x32 they are
            16x16, 16x16, 8x8, 4x4, 4x4, 2x2, 2x2 and 2x2. Feature
            distillation uses 1, 2, 4 and 6. Defaults to ``(7,)``.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            the published one.
        stem (str): ``'cifar'``, or ``'large'`` for images of 224x224, as in
            SDD: a first convolution of 7x7 with a stride of 2, and after
            its ReLU a 2x2 max pooling. The maps of such images are 56x56,
            56x56, 28x28, 14x14, 14x14, 7x7, 7x7 and 7x7. Defaults to
            ``'cifar'``.

    Raises:
        ValueError: If an option is out of its range.

    Example:
        >>> import torch
        >>> CifarMobileNetV2()(torch.rand(2, 3, 32, 32))[0].shape
        torch.Size([2, 1280, 2, 2])
    """

    def __init__(
        self,
        width_mult: float = 0.5,
        out_indices: Sequence[int] = (7,),
        init_cfg: Optional[Union[dict, list[dict]]] = KAIMING_FAN_OUT,
        *,
        stem: str = 'cifar',
    ) -> None:
        super().__init__(8, out_indices, init_cfg)
        # Below this the narrowest layer would have no channel.
        check_number('width_mult', width_mult, least=1 / 16)
        channels = int(32 * width_mult)
        self.conv1 = stem_conv(stem, channels, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2) if stem == 'large' else nn.Identity()
        for stage, (expansion, full, blocks, stride) in enumerate(STAGES):
            out_channels = int(full * width_mult)
            layer = []
            for block in range(blocks):
                layer.append(
                    _InvertedResidual(
                        channels,
                        out_channels,
                        channels * expansion,
                        stride=stride if block == 0 else 1,
                    )
                )
                channels = out_channels
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layer))
        last_channels = int(1280 * max(width_mult, 1))
        self.conv2 = nn.Conv2d(channels, last_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last_channels)

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of the seven stages and of the last layer."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for stage in range(1, 8):
            x = getattr(self, f'layer{stage}')(x)
            outputs.append(x)
        return [*outputs, self.relu(self.bn2(self.conv2(x)))]


class _InvertedResidual(InvertedResidual):
    """mmpretrain's block with an expanding convolution in any case."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int,
        stride: int,
    ) -> None:
        super().__init__(
            in_channels, out_channels, mid_channels, stride=stride
        )
        if not self.with_expand_conv:
            self.with_expand_conv = True
            self.expand_conv = ConvModule(
                in_channels, mid_channels, 1, norm_cfg=dict(type='BN')
            )
