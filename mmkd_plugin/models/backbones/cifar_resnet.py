"""Residual networks with three stages."""

from collections.abc import Sequence
from typing import Optional, Union

from mmengine.registry import MODELS
from mmpretrain.models.backbones.resnet import BasicBlock, ResLayer
from torch import Tensor, nn
from torch.nn.functional import pad

from mmkd_plugin.utils.checks import check_choice

from .cifar_backbone import KAIMING_FAN_OUT, CifarBackbone, stem_conv

# Blocks a stage.
BLOCKS = {6 * n + 2: n for n in (1, 2, 3, 5, 7, 9, 18)}
STEM_CHANNELS = {1: 16, 4: 32}


@MODELS.register_module()
class CifarResNet(CifarBackbone):
    """ResNet-8, 14, 20, 32, 44, 56, 110, and the 4 times wider ones.

    ResNet-8x4 is ``depth=8, width=4``, ResNet-32x4 ``depth=32, width=4``.
    The keys of the weights are those of RepDistiller and mdistiller.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016,
        https://arxiv.org/abs/1512.03385, section 4.2. As in RepDistiller,
        the networks of Tian et al., Contrastive Representation
        Distillation, ICLR 2020, https://arxiv.org/abs/1910.10699, the
        shortcut is a convolution by default; the wide ones are its too.
        Their stem is only twice as wide, so their first stage has such a
        shortcut as well.

    Args:
        depth (int): 8, 14, 20, 32, 44, 56 or 110.
        width (int): 1 for stages of 16, 32 and 64 channels after a stem of
            16; 4 for 64, 128 and 256 after a stem of 32. Defaults to 1.
        shortcut (str): Where a stage changes the size of the map:
            ``'conv'``, a 1x1 convolution and its normalisation; or
            ``'pad'``, option A of the paper, which has no weights: every
            second pixel, and zeros for the new channels, half of them
            before the old ones and half after, which is the choice of
            akamaster/pytorch_resnet_cifar10. Defaults to ``'conv'``.
        out_indices (Sequence[int]): Stages whose maps are returned,
            ascending. At 32x32 they are 32x32, 16x16 and 8x8, after the
            ReLU. Defaults to ``(2,)``.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            the published one.
        stem (str): ``'cifar'``, or ``'large'`` for images of 224x224, as in
            SDD: a first convolution of 7x7 with a stride of 2. The maps of
            such images are 112x112, 56x56 and 28x28. Defaults to
            ``'cifar'``.

    Raises:
        ValueError: If an option is none of the values above.

    Example:
        >>> import torch
        >>> net = CifarResNet(8, width=4, out_indices=(0, 2))
        >>> [tuple(x.shape) for x in net(torch.rand(2, 3, 32, 32))]
        [(2, 64, 32, 32), (2, 256, 8, 8)]
    """

    def __init__(
        self,
        depth: int,
        width: int = 1,
        shortcut: str = 'conv',
        out_indices: Sequence[int] = (2,),
        init_cfg: Optional[Union[dict, list[dict]]] = KAIMING_FAN_OUT,
        *,
        stem: str = 'cifar',
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        check_choice('depth', depth, BLOCKS)
        check_choice('width', width, STEM_CHANNELS)
        check_choice('shortcut', shortcut, ('conv', 'pad'))
        channels = STEM_CHANNELS[width]
        self.conv1 = stem_conv(stem, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        for stage in range(3):
            layer = ResLayer(
                BasicBlock,
                BLOCKS[depth],
                channels,
                16 * width * 2**stage,
                stride=1 if stage == 0 else 2,
            )
            if shortcut == 'pad' and layer[0].downsample is not None:
                layer[0].downsample = _PadShortcut(
                    layer[0].stride, layer[0].out_channels - channels
                )
            self.add_module(f'layer{stage + 1}', layer)
            channels = layer[0].out_channels

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of the three stages, each after its ReLU."""
        x = self.relu(self.bn1(self.conv1(x)))
        first = self.layer1(x)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]


class _PadShortcut(nn.Module):
    """Subsample a map and add channels of zeros around its own."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return pad(x, (0, 0, 0, 0, self.before, self.after))
