"""Networks that make images, and those that judge them."""

from .mosaic_generator import MosaicGenerator
from .patch_discriminator import PatchDiscriminator
from .receptive_field import ReceptiveField, receptive_field

__all__ = [
    'MosaicGenerator',
    'PatchDiscriminator',
    'ReceptiveField',
    'receptive_field',
]
