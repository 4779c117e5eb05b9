"""Weights that are no numbers any more."""

from collections.abc import Mapping
from typing import Optional

from torch import Tensor, nn


def find_non_finite(weights: Mapping[str, Tensor]) -> Optional[str]:
    """Find a tensor that holds NaN or infinity.

    Args:
        weights (Mapping[str, Tensor]): For example a ``state_dict``.

    Returns:
        str or None: The name of the first one; None where there is none.
    """
    for name, value in weights.items():
        if not value.isfinite().all():
            return name
    return None


def broken_networks(nets: dict[str, nn.Module]) -> list[str]:
    """Find networks whose weights or statistics are not all finite.

    Args:
        nets (dict[str, nn.Module]): Networks by their names.

    Returns:
        list[str]: The names.
    """
    return [
        name
        for name, net in nets.items()
        if find_non_finite(net.state_dict()) is not None
    ]
