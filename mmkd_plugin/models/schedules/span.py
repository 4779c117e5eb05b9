"""Base of the schedules that change a weight over a span of training."""

from typing import Optional

from mmkd_plugin.utils.checks import check_count, check_flag


class Span:
    """From one epoch or iteration to another, both counted from 0.

    Args:
        begin (int): The first epoch or iteration of the span, not negative.
            Defaults to 0.
        end (int): The first one after it, greater than ``begin``.
        by_epoch (bool): Whether epochs count, or iterations. Defaults to
            True.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self, *, begin: int = 0, end: int, by_epoch: bool = True
    ) -> None:
        check_count('begin', begin, least=0)
        check_count('end', end, least=0)
        if end <= begin:
            raise ValueError(
                f'end must be greater than begin={begin}, but got {end}'
            )
        self.begin = begin
        self.end = end
        self.by_epoch = check_flag('by_epoch', by_epoch)

    def passed(
        self, epoch: Optional[int], iteration: Optional[int], plus: int = 0
    ) -> float:
        """Get the share of the span that has passed.

        Args:
            epoch (int, optional): The epoch; None where there is no count.
            iteration (int, optional): The iteration, likewise.
            plus (int): 1 to count the running epoch or iteration as passed.
                Defaults to 0.

        Returns:
            float: From 0.0 to 1.0.

        Raises:
            RuntimeError: If there is no count of what the span goes by.
        """
        now = epoch if self.by_epoch else iteration
        if now is None:
            what = 'epoch' if self.by_epoch else 'iteration'
            raise RuntimeError(
                f'{type(self).__name__} goes by the {what}, of which there is '
                f'no count here: set by_epoch={not self.by_epoch}, or call '
                f'model.distiller.set_progress({what}=...) before each step '
                f'(model.set_progress where there is no distiller)'
            )
        share = (now - self.begin + plus) / (self.end - self.begin)
        return min(max(share, 0.0), 1.0)
