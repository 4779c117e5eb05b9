"""Schedules: loss weights that change during training."""

from .linear_warmup import LinearWarmup

__all__ = ['LinearWarmup']
