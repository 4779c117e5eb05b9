"""A weight that goes from one value to another in a straight line."""

from typing import Optional

from mmengine.registry import TASK_UTILS

from mmkd_plugin.utils.checks import check_number

from .span import Span


@TASK_UTILS.register_module()
class LinearRamp(Span):
    r"""A weight that goes linearly from one value to another, then stays.

    .. math::
        w(t) = a + (b - a) \cdot \min\left(\max\left(
            \frac{t - \mathrm{begin} + 1}{\mathrm{end} - \mathrm{begin}},
            0\right), 1\right)

    where :math:`t` is the epoch or the iteration, counted from 0 as the
    engine does. As for :class:`LinearWarmup`, which starts from 0, epoch
    ``end - 1`` is the first with the last value. With ``start=0.0, stop=0.8``
    and ``end`` the number of epochs it is the :math:`\alpha_t` of PS-KD.

    Args:
        start (float): The value :math:`a` before ``begin``. Defaults to 0.0.
        stop (float): The value :math:`b` in the end. Defaults to 1.0.
        begin (int): The first epoch or iteration with another value than
            ``start``, not negative. Defaults to 0.
        end (int): Greater than ``begin``; epoch or iteration ``end - 1`` is
            the first with ``stop``.
        by_epoch (bool): Whether epochs count, or iterations (steps of the
            loop, also where gradients are accumulated). Defaults to True.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> schedule = LinearRamp(start=3.0, stop=1.0, end=4)
        >>> [schedule(epoch, iteration=0) for epoch in range(6)]
        [2.5, 2.0, 1.5, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        stop: float = 1.0,
        begin: int = 0,
        end: int,
        by_epoch: bool = True,
    ) -> None:
        super().__init__(begin=begin, end=end, by_epoch=by_epoch)
        self.start = check_number('start', start)
        self.stop = check_number('stop', stop)

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
        share = self.passed(epoch, iteration, plus=1)
        # This form has both ends exact.
        return (1.0 - share) * self.start + share * self.stop
