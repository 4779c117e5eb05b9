"""Losses: a pure function and the registered class around it."""

from .data_free_objective import (
    clamped_js_divergence,
    one_hot_loss,
    total_variation_l1,
)
from .dkd_loss import DKDLoss, dkd_loss
from .kl_divergence import KLDivergence, kl_divergence
from .l1_loss import L1Loss, l1_loss
from .mosaic_objective import (
    adversarial_loss,
    alignment_loss,
    balance_loss,
    patch_discriminator_loss,
    patch_generator_loss,
)
from .mse_loss import MSELoss, mse_loss
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
    'MSELoss',
    'NKDLoss',
    'SDDLoss',
    'StructuredRelationLoss',
    'adversarial_loss',
    'alignment_loss',
    'balance_loss',
    'clamped_js_divergence',
    'dkd_loss',
    'kl_divergence',
    'l1_loss',
    'mse_loss',
    'nkd_loss',
    'one_hot_loss',
    'patch_discriminator_loss',
    'patch_generator_loss',
    'region_logits',
    'sdd_loss',
    'structured_relation_loss',
    'total_variation_l1',
]
