"""Connectors: what stands between a record and a loss."""

from .class_drop_mask import ClassDropMask, class_drop_mask
from .conv_connector import ConvConnector
from .linear_connector import LinearConnector
from .logit_standardization import (
    LogitStandardization,
    logit_standardization,
)
from .mgd_connector import MGDConnector

__all__ = [
    'ClassDropMask',
    'ConvConnector',
    'LinearConnector',
    'LogitStandardization',
    'MGDConnector',
    'class_drop_mask',
    'logit_standardization',
]
