"""A convolution between features of different widths, or sizes."""

from typing import Optional

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from mmkd_plugin.utils.checks import check_count, check_flag, check_map


@MODELS.register_module()
class ConvConnector(BaseModule):
    """Map a student's feature map to the width and size of the teacher's.

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015,
        https://arxiv.org/abs/1412.6550, section 2.2: a convolutional
        regressor. Here its kernel is 1x1 by default, so that the map keeps
        its size. The paper's own kernel has no padding and makes a map of
        the size ``H`` one of ``H'`` with ``kernel_size=1 + H - H',
        padding=0``. The code of mdistiller and RepDistiller takes that as
        well, but for maps of half the size ``kernel_size=3, stride=2``, and
        for maps of twice the size ``kernel_size=4, stride=2, padding=1,
        transposed=True``; behind it there is a BN and a ReLU,
        ``norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')``.

    Args:
        in_channels (int): Channels of the student.
        out_channels (int): Channels of the teacher.
        kernel_size (int): Size of the kernel. Defaults to 1.
        stride (int): Stride; with ``transposed``, the factor by which the
            map grows. Defaults to 1.
        padding (int, optional): Padding. Defaults to None: half of the
            kernel, which has to be odd then, so that the map keeps its size
            at ``stride=1``.
        transposed (bool): Whether the convolution is transposed. Defaults to
            False.
        norm_cfg (dict, optional): Config of a normalisation layer after the
            convolution. Defaults to None.
        act_cfg (dict, optional): Config of an activation after that.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If an option is out of its range, or if an even kernel
            has no ``padding``.

    Examples:
        >>> import torch
        >>> connector = ConvConnector(
        ...     16, 32, kernel_size=4, stride=2, padding=1, transposed=True)
        >>> connector(torch.zeros(2, 16, 4, 4)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        padding: Optional[int] = None,
        transposed: bool = False,
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = check_count('in_channels', in_channels)
        check_count('out_channels', out_channels)
        check_count('stride', stride)
        check_count('kernel_size', kernel_size)
        if padding is None:
            if kernel_size % 2 == 0:
                raise ValueError(
                    f'kernel_size must be odd where no padding is given, but '
                    f'got {kernel_size}'
                )
            padding = kernel_size // 2
        check_count('padding', padding, least=0)
        check_flag('transposed', transposed)
        self.conv = ConvModule(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            conv_cfg=dict(type='deconv') if transposed else None,
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
            Tensor: Shape ``(N, out_channels, H', W')``, where ``H'`` is
            ``(H + 2 padding - kernel_size) // stride + 1``, or ``(H - 1)
            stride + kernel_size - 2 padding`` with ``transposed``.

        Raises:
            ValueError: If ``feature`` is no map of that width.
        """
        check_map('feature', feature, self.in_channels)
        return self.conv(feature)
