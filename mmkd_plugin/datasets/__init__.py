"""Packed, in-memory and embedded images; samplers; batch transforms."""

from .array_images import ArrayImages, array_collate
from .demo_digits import DemoDigits
from .demo_glyphs import DemoGlyphs
from .in_memory_images import InMemoryImages
from .packed_images import PackedImages
from .samplers import *  # noqa: F403
from .svhn_images import SVHNImages
from .transforms import *  # noqa: F403

__all__ = [
    'ArrayImages',
    'DemoDigits',
    'DemoGlyphs',
    'InMemoryImages',
    'PackedImages',
    'SVHNImages',
    'array_collate',
]
