"""Numbers and names as a person reads them."""

import math
from typing import Optional


def format_count(count: Optional[float]) -> str:
    """Write a number of parameters, for example ``11.2 M``."""
    if count is None:
        return '-'
    for size, unit in ((1e9, ' G'), (1e6, ' M'), (1e3, ' k')):
        if count >= size:
            digits = 2 - min(2, int(math.log10(count / size)))
            return f'{count / size:.{digits}f}{unit}'
    return f'{count:,.0f}'


def format_score(value: Optional[float]) -> str:
    """Write a metric, for example ``77.67``; a dash where there is none."""
    return '-' if value is None else f'{value:.2f}'


def format_confidence(uncertainty: float) -> str:
    """Write a confidence, also where it is closer to 1 than digits show.

    Args:
        uncertainty (float): Minus the log of the confidence, in nats.

    Returns:
        str: For example ``98.2 %``, or ``1-3e-07`` where rounding would
        give 100 %.
    """
    rest = -math.expm1(-uncertainty)
    if rest >= 5e-4:
        return f'{100 * (1 - rest):.1f} %'
    return f'1-{rest:.0e}' if rest > 0 else '1'


def shorten(text: str, length: int) -> str:
    """Cut a text to a length; an ellipsis tells that it was longer."""
    return text if len(text) <= length else text[: length - 1] + '…'
