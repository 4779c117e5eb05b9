"""What travels between the data and the models."""

from .batch_samples import BatchSamples

__all__ = ['BatchSamples']
