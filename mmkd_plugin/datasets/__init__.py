"""Packed, in-memory and embedded images; samplers; batch transforms."""

from .array_images import ArrayImages, array_collate

__all__ = ['ArrayImages', 'array_collate']
