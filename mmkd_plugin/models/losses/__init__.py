"""Losses: a pure function and the registered class around it."""

from .kl_divergence import KLDivergence, kl_divergence
from .l1_loss import L1Loss, l1_loss
from .structured_relation_loss import (
    StructuredRelationLoss,
    structured_relation_loss,
)

__all__ = [
    'KLDivergence',
    'L1Loss',
    'StructuredRelationLoss',
    'kl_divergence',
    'l1_loss',
    'structured_relation_loss',
]
