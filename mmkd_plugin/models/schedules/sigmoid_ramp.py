"""A weight that grows along a sigmoid-shaped curve."""

import math
from typing import Optional

from mmengine.registry import TASK_UTILS

from mmkd_plugin.utils.checks import check_number

from .span import Span


@TASK_UTILS.register_module()
class SigmoidRamp(Span):
    r"""A weight that grows as a Gaussian's flank, then stays.

    .. math::
        w(t) = v \cdot \exp\left(-5 \left(1 - \min\left(\max\left(
            \frac{t - \mathrm{begin}}{\mathrm{end} - \mathrm{begin}},
            0\right), 1\right)\right)^2\right)

    where :math:`t` is the epoch or the iteration, counted from 0 as the
    engine does. Up to ``begin`` it is :math:`v e^{-5} = 0.0067 v`; epoch
    ``end`` is the first with all of the weight.

    Reference:
        Laine and Aila, Temporal Ensembling for Semi-Supervised Learning,
        ICLR 2017, https://arxiv.org/abs/1610.02242, where it is the ramp-up
        of the weight; the online schemes ONE and OKDDip take it over 80
        epochs.

    Args:
        value (float): The weight :math:`v` after the ramp. Defaults to 1.0.
        begin (int): Up to this epoch or iteration, not negative, the weight
            does not grow. Defaults to 0.
        end (int): Greater than ``begin``; the first epoch or iteration with
            the full weight.
        by_epoch (bool): Whether epochs count, or iterations (steps of the
            loop, also where gradients are accumulated). Defaults to True.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> schedule = SigmoidRamp(end=2)
        >>> [round(schedule(epoch, iteration=0), 4) for epoch in range(4)]
        [0.0067, 0.2865, 1.0, 1.0]
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
        missing = 1.0 - self.passed(epoch, iteration)
        return self.value * math.exp(-5.0 * missing**2)
