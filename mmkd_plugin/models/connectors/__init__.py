"""Connectors: what stands between a record and a loss."""

from .average_probabilities import (
    AverageProbabilities,
    average_probabilities,
)
from .byot_connector import BYOTConnector
from .class_drop_mask import ClassDropMask, class_drop_mask
from .conv_connector import ConvConnector
from .linear_connector import LinearConnector
from .logit_standardization import (
    LogitStandardization,
    logit_standardization,
)
from .mgd_connector import MGDConnector
from .paraphraser_connector import ParaphraserConnector
from .pool_connector import PoolConnector
from .review_connector import ReviewConnector
from .translator_connector import TranslatorConnector

__all__ = [
    'AverageProbabilities',
    'BYOTConnector',
    'ClassDropMask',
    'ConvConnector',
    'LinearConnector',
    'LogitStandardization',
    'MGDConnector',
    'ParaphraserConnector',
    'PoolConnector',
    'ReviewConnector',
    'TranslatorConnector',
    'average_probabilities',
    'class_drop_mask',
    'logit_standardization',
]
