"""Losses: a pure function and the registered class around it."""

from .dkd_loss import DKDLoss, dkd_loss
from .kl_divergence import KLDivergence, kl_divergence
from .l1_loss import L1Loss, l1_loss
from .nkd_loss import NKDLoss, nkd_loss
from .sdd_loss import SDDLoss, region_logits, sdd_loss
from .structured_relation_loss import (
    StructuredRelationLoss,
    structured_relation_loss,
)

__all__ = [
    'DKDLoss',
    'KLDivergence',
    'L1Loss',
    'NKDLoss',
    'SDDLoss',
    'StructuredRelationLoss',
    'dkd_loss',
    'kl_divergence',
    'l1_loss',
    'nkd_loss',
    'region_logits',
    'sdd_loss',
    'structured_relation_loss',
]
