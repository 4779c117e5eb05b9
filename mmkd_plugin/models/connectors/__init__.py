"""Connectors: what stands between a record and a loss."""

from .class_drop_mask import ClassDropMask, class_drop_mask
from .conv_connector import ConvConnector
from .linear_connector import LinearConnector

__all__ = [
    'ClassDropMask',
    'ConvConnector',
    'LinearConnector',
    'class_drop_mask',
]
