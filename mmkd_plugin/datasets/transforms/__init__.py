"""Transforms of whole batches, on the device."""

from .batch_random_crop import BatchRandomCrop
from .batch_random_flip import BatchRandomFlip

__all__ = ['BatchRandomCrop', 'BatchRandomFlip']
