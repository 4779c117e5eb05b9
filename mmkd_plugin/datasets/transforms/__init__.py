"""Transforms of batches on the device; of images with a foreground."""

from .batch_random_crop import BatchRandomCrop
from .batch_random_flip import BatchRandomFlip
from .crop_object import CropObject
from .load_foreground import LoadForeground

__all__ = [
    'BatchRandomCrop',
    'BatchRandomFlip',
    'CropObject',
    'LoadForeground',
]
