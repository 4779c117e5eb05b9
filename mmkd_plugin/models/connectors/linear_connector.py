"""A linear map between vectors of different widths."""

from typing import Optional

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number


@MODELS.register_module()
class LinearConnector(BaseModule):
    """Map a student's vector, or every token of a sequence, to the teacher's.

    Args:
        in_channels (int): Width of the student.
        out_channels (int): Width of the teacher.
        bias (bool): Whether to add a bias. Defaults to True.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a width is less than 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_number('in_channels', in_channels, least=1)
        check_number('out_channels', out_channels, least=1)
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, feature: Tensor) -> Tensor:
        """Map the feature.

        Args:
            feature (Tensor): Shape ``(*, in_channels)``.

        Returns:
            Tensor: Shape ``(*, out_channels)``.
        """
        return self.linear(feature)
