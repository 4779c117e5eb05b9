"""VGG networks without the fully connected layers."""

from collections.abc import Sequence
from typing import Optional, Union

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from mmkd_plugin.utils.checks import check_choice

from .cifar_backbone import KAIMING_FAN_OUT, CifarBackbone

# Convolutions a stage.
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class CifarVGG(CifarBackbone):
    """VGG-8, 11, 13, 16 and 19 with batch normalisation.

    The keys of the weights are those of RepDistiller and mdistiller.

    Reference:
        Simonyan and Zisserman, Very Deep Convolutional Networks for
        Large-Scale Image Recognition, ICLR 2015,
        https://arxiv.org/abs/1409.1556. As in RepDistiller: one linear
        layer after global average pooling, biases although a normalisation
        follows, and no pooling between the last two stages, so that the
        last map is 4x4. Only at images of a height of 64 there is one.

    Args:
        depth (int): 8, 11, 13, 16 or 19. The name counts three linear
            layers, of which one is left.
        out_indices (Sequence[int]): Stages whose maps are returned,
            ascending. At 32x32 they are 32x32, 16x16, 8x8, 4x4 and 4x4,
            after the ReLU and before the pooling. Defaults to ``(4,)``.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            the published one.

    Raises:
        ValueError: If an option is none of the values above.

    Example:
        >>> import torch
        >>> CifarVGG(8)(torch.rand(2, 3, 32, 32))[0].shape
        torch.Size([2, 512, 4, 4])
    """

    def __init__(
        self,
        depth: int,
        out_indices: Sequence[int] = (4,),
        init_cfg: Optional[Union[dict, list[dict]]] = KAIMING_FAN_OUT,
    ) -> None:
        super().__init__(5, out_indices, init_cfg)
        check_choice('depth', depth, CONVOLUTIONS)
        in_channels = 3
        for stage, channels in enumerate(CHANNELS):
            layers = []
            for _ in range(CONVOLUTIONS[depth][stage]):
                layers += [
                    nn.Conv2d(in_channels, channels, 3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
                in_channels = channels
            self.add_module(f'block{stage}', nn.Sequential(*layers))

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of the five stages, each before its pooling."""
        pools_last = x.shape[2] == 64
        outputs = []
        for stage in range(5):
            if 0 < stage < 4 or (stage == 4 and pools_last):
                x = max_pool2d(x, 2)
            x = getattr(self, f'block{stage}')(x)
            outputs.append(x)
        return outputs
