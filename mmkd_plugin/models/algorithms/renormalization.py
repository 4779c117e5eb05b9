"""From the statistics of one network to those of another."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def statistics_of(preprocessor: Optional[nn.Module]) -> Optional[Statistics]:
    """Get mean and deviation that a preprocessor normalises with.

    Args:
        preprocessor (nn.Module, optional): A preprocessor of mmengine or
            mmpretrain.

    Returns:
        tuple[tuple[float, ...], tuple[float, ...]] or None: One number for
        each channel, or one for all; None where it does not normalise.
    """
    values = [getattr(preprocessor, name, None) for name in ('mean', 'std')]
    if any(value is None for value in values):
        return None
    mean, std = (tuple(value.flatten().tolist()) for value in values)
    return mean, std


def check_statistics(
    where: str, mean: Optional[Sequence], std: Optional[Sequence]
) -> Optional[Statistics]:
    """Check the statistics of a config.

    Args:
        where (str): What has them, for messages.
        mean (Sequence[float], optional): One number for each channel, or one
            for all.
        std (Sequence[float], optional): Likewise.

    Returns:
        tuple[tuple[float, ...], tuple[float, ...]] or None: Both; None where
        neither is given.

    Raises:
        ValueError: If only one is given, if they are no sequences of one
            length, or if a number is out of its range.
    """
    if mean is None and std is None:
        return None
    for name, values in dict(mean=mean, std=std).items():
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ValueError(
                f'{where}: {name} must be a sequence of numbers, as mean and '
                f'std come together, but got {values!r}'
            )
        for value in values:
            check_number(
                f'{where}: {name}',
                value,
                **(dict(above=0) if name == 'std' else {}),
            )
    if len(mean) != len(std) or not mean:
        raise ValueError(
            f'{where}: mean and std must have one number for each channel, '
            f'but got {mean!r} and {std!r}'
        )
    # In single precision, as preprocessors keep theirs.
    mean, std = (
        tuple(torch.tensor(values, dtype=torch.float32).tolist())
        for values in (mean, std)
    )
    return mean, std


class Renormalization(nn.Module):
    r"""Normalised images as another network wants them.

    With mean and deviation :math:`\mu, \sigma` of the images and :math:`\mu',
    \sigma'` of the network, it is :math:`(x \sigma + \mu - \mu') / \sigma'`,
    in one multiplication and one addition.

    Args:
        given (tuple, optional): Mean and deviation that the images have been
            normalised with; None for raw ones.
        wanted (tuple): Those that the network knows.

    Examples:
        >>> import torch
        >>> images = torch.tensor([[[[0.0, 1.0]]]])
        >>> net = Renormalization(((10.0,), (4.0,)), ((2.0,), (8.0,)))
        >>> net(images)
        tensor([[[[1.0000, 1.5000]]]])
    """

    def __init__(
        self, given: Optional[Statistics], wanted: Statistics
    ) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(values, dtype=torch.float64)
            for values in (given or ((0.0,), (1.0,)))
        )
        own_mean, own_std = (
            torch.tensor(values, dtype=torch.float64) for values in wanted
        )
        for name, value in (
            ('scale', std / own_std),
            ('shift', (mean - own_mean) / own_std),
        ):
            value = value.float().view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise the images anew.

        Args:
            images (Tensor): Normalised images, shape ``(B, C, H, W)``.

        Returns:
            Tensor: Same shape and dtype.
        """
        return torch.addcmul(self.shift, images, self.scale)
