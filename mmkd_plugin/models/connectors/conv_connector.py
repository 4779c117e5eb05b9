"""A 1x1 convolution between features of different widths."""

from typing import Optional

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from mmkd_plugin.utils.checks import check_number


@MODELS.register_module()
class ConvConnector(BaseModule):
    """Map a student's feature map to the width of the teacher's.

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015,
        https://arxiv.org/abs/1412.6550, section 2.2: a convolutional
        regressor. Here its kernel is 1x1 by default, so that the map keeps
        its size.

    Args:
        in_channels (int): Channels of the student.
        out_channels (int): Channels of the teacher.
        kernel_size (int): Odd size of the kernel; the padding keeps the size
            of the map at ``stride=1``. Defaults to 1.
        stride (int): Stride. Defaults to 1.
        norm_cfg (dict, optional): Config of a normalisation layer after the
            convolution. Defaults to None.
        act_cfg (dict, optional): Config of an activation after that.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a size is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_number('in_channels', in_channels, least=1)
        check_number('out_channels', out_channels, least=1)
        check_number('stride', stride, least=1)
        if check_number('kernel_size', kernel_size, least=1) % 2 == 0:
            raise ValueError(f'kernel_size must be odd, but got {kernel_size}')
        self.conv = ConvModule(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        # It has initialised itself; to do so once more, as the engine would
        # after init_cfg, would undo that.
        self.conv.is_init = True

    def forward(self, feature: Tensor) -> Tensor:
        """Map the feature.

        Args:
            feature (Tensor): Shape ``(N, in_channels, H, W)``.

        Returns:
            Tensor: Shape ``(N, out_channels, H', W')``, with ``H' = H`` at
            ``stride=1``.
        """
        return self.conv(feature)
