"""Weights that are no numbers any more."""

from collections.abc import Mapping
from typing import Optional

from torch import Tensor


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
