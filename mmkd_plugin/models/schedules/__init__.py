"""Schedules: loss weights that change during training."""

from .linear_ramp import LinearRamp
from .linear_warmup import LinearWarmup
from .sigmoid_ramp import SigmoidRamp

__all__ = ['LinearRamp', 'LinearWarmup', 'SigmoidRamp']
