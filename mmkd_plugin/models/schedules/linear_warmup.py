"""A weight that grows linearly from the start of training."""

from typing import Optional

from mmengine.registry import TASK_UTILS

from mmkd_plugin.utils.checks import check_number

from .span import Span


@TASK_UTILS.register_module()
class LinearWarmup(Span):
    r"""A loss weight that grows linearly, then stays.

    .. math::
        w(t) = v \cdot \min\left(\max\left(
            \frac{t - \mathrm{begin} + 1}{\mathrm{end} - \mathrm{begin}},
            0\right), 1\right)

    where :math:`t` is the epoch or the iteration, counted from 0 as the
    engine does. With ``begin=0, end=20`` epoch 0 has 1/20 of the weight and
    epoch 19 is the first to have all of it. This is :math:`\min(e / 20, 1)`
    of DKD's published code, whose epochs :math:`e` count from 1.

    Args:
        value (float): The weight :math:`v` after the warm-up. Defaults to
            1.0.
        begin (int): The first epoch or iteration with a weight other than 0,
            not negative. Defaults to 0.
        end (int): Greater than ``begin``; epoch or iteration ``end - 1`` is
            the first with the full weight.
        by_epoch (bool): Whether epochs count, or iterations (steps of the
            loop, also where gradients are accumulated). Defaults to True.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> schedule = LinearWarmup(value=2.0, end=4)
        >>> [schedule(epoch, iteration=0) for epoch in range(6)]
        [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    """

    def __init__(
        self,
        *,
        value: float = 1.0,
        begin: int = 0,
        end: int,
        by_epoch: bool = True,
    ) -> None:
        super().__init__(begin=begin, end=end, by_epoch=by_epoch)
        self.value = check_number('value', value)

    def __call__(
        self, epoch: Optional[int], iteration: Optional[int]
    ) -> float:
        """Get the weight at some time.

        Args:
            epoch (int, optional): The epoch, counted from 0; None where
                there is no count.
            iteration (int, optional): The iteration since the start of
                training, likewise.

        Returns:
            float: The weight.

        Raises:
            RuntimeError: If there is no count of what the schedule goes by.
        """
        return self.value * self.passed(epoch, iteration, plus=1)
