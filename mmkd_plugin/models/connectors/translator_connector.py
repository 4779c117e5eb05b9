"""Translate a student's feature map to a factor."""

from typing import Optional

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from mmkd_plugin.utils.checks import check_count, check_map

from .factor_layers import factor_layers


@MODELS.register_module()
class TranslatorConnector(BaseModule):
    """The translator of factor transfer.

    Three 3x3 convolutions, each with a leaky ReLU, that are trained with the
    student. ``FTLoss`` compares the result with the factor of
    :class:`ParaphraserConnector`, which stands on the teacher's side.

    Reference:
        Kim et al., Paraphrasing Complex Network: Network Compression via
        Factor Transfer, NeurIPS 2018, https://arxiv.org/abs/1802.04977,
        section 3.2, with the layers of the released code
        (https://github.com/Jangho-Kim/Factor-Transfer-pytorch), which has no
        normalisation. MMRazor's ``Translator`` has batch norms where nothing
        else is said: ``norm_cfg=dict(type='BN')``.

    Args:
        in_channels (int): Channels of the student.
        out_channels (int): Channels of the factor.
        norm_cfg (dict, optional): Config of a normalisation layer behind
            each convolution. Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a width is no positive integer.

    Examples:
        >>> import torch
        >>> TranslatorConnector(16, 32)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm_cfg: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = check_count('in_channels', in_channels)
        check_count('out_channels', out_channels)
        widths = [in_channels, in_channels, out_channels, out_channels]
        self.encoder = factor_layers(widths, norm_cfg)

    def forward(self, feature: Tensor) -> Tensor:
        """Translate the feature.

        Args:
            feature (Tensor): Shape ``(N, in_channels, H, W)``.

        Returns:
            Tensor: The factor, shape ``(N, out_channels, H, W)``.

        Raises:
            ValueError: If ``feature`` is no map of that width.
        """
        check_map('feature', feature, self.in_channels)
        return self.encoder(feature)
