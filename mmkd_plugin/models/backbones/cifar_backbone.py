"""What the CIFAR networks share."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Optional, Union

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor

# N(0, 2 / (k * k * out_channels)) for convolutions, as RepDistiller has it
# for all networks but the shuffled ones.
KAIMING_FAN_OUT = [
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', layer='_BatchNorm', val=1),
]


class CifarBackbone(BaseBackbone):
    """A backbone that returns the maps of chosen stages.

    Args:
        num_stages (int): How many stages the network has.
        out_indices (Sequence[int]): Which stages are returned, ascending.
        init_cfg (dict or list[dict], optional): Initialisation. Defaults to
            None, which keeps that of the layers.

    Raises:
        ValueError: If ``out_indices`` are no ascending indices of stages.
    """

    def __init__(
        self,
        num_stages: int,
        out_indices: Sequence[int],
        init_cfg: Optional[Union[dict, list[dict]]] = None,
    ) -> None:
        super().__init__(init_cfg)
        stages = range(num_stages)
        good = (
            isinstance(out_indices, Sequence)
            and len(out_indices) > 0
            and all(type(index) is int for index in out_indices)
            and all(index in stages for index in out_indices)
            and sorted(set(out_indices)) == list(out_indices)
        )
        if not good:
            raise ValueError(
                f'out_indices of {type(self).__name__} must be ascending '
                f'indices of its stages, 0 to {num_stages - 1}, such as '
                f'({num_stages - 1},), but got {out_indices!r}'
            )
        self.out_indices = tuple(out_indices)

    @abstractmethod
    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """Compute the maps of all stages.

        Args:
            x (Tensor): Normalised images, shape ``(B, 3, H, W)``.

        Returns:
            list[Tensor]: A map of each stage; the last one is what the
            classifier pools.
        """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the chosen stages.

        Args:
            x (Tensor): Normalised images, shape ``(B, 3, H, W)``.

        Returns:
            tuple[Tensor, ...]: One map for each of ``out_indices``.
        """
        outputs = self.stage_outputs(x)
        return tuple(outputs[index] for index in self.out_indices)

    def train(self, mode: bool = True) -> 'CifarBackbone':
        """Set the mode and return the network.

        mmpretrain's ``BaseBackbone`` returns None, so that ``model.eval()``
        could not be chained.

        Args:
            mode (bool): Training mode or not. Defaults to True.

        Returns:
            CifarBackbone: The network itself.
        """
        super().train(mode)
        return self
