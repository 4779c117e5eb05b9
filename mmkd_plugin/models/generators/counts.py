"""Options that count something."""

from mmkd_plugin.utils.checks import check_number


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return ``value`` if it is an integer that is large enough.

    Args:
        name (str): What the number is called in the message.
        value (int): The number.
        least (int): Inclusive lower bound. Defaults to 1.

    Raises:
        ValueError: If it is no integer, or too small.
    """
    if type(value) is not int:
        raise ValueError(f'{name} must be an integer, but got {value!r}')
    return check_number(name, value, least=least)
