"""Packed, in-memory and embedded images; samplers; batch transforms."""

from .array_images import ArrayImages, array_collate
from .coco_objects import COCOObjects
from .cub_foreground import CUBForeground
from .demo_digits import DemoDigits
from .demo_glyphs import DemoGlyphs
from .demo_scenes import DemoScenes
from .det_objects import DETObjects
from .folder_with_masks import FolderWithMasks
from .in_memory_images import InMemoryImages
from .packed_images import PackedImages
from .samplers import *  # noqa: F403
from .svhn_images import SVHNImages
from .transforms import *  # noqa: F403
from .voc_objects import VOCObjects

__all__ = [
    'ArrayImages',
    'COCOObjects',
    'CUBForeground',
    'DETObjects',
    'DemoDigits',
    'DemoGlyphs',
    'DemoScenes',
    'FolderWithMasks',
    'InMemoryImages',
    'PackedImages',
    'SVHNImages',
    'VOCObjects',
    'array_collate',
]
