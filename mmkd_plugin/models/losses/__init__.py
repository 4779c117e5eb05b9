"""Losses: a pure function and the registered class around it."""

from .ab_loss import ABLoss, ab_loss
from .at_loss import ATLoss, at_loss
from .cc_loss import CCLoss, cc_loss
from .crd_loss import CRDLoss, crd_embedding, crd_log_z, crd_loss
from .cskd_loss import CSKDLoss, cskd_loss
from .data_free_objective import (
    clamped_js_divergence,
    one_hot_loss,
    total_variation_l1,
)
from .dist_loss import DISTLoss, dist_loss
from .dkd_loss import DKDLoss, dkd_loss
from .dlb_loss import DLBLoss, dlb_loss
from .fsp_loss import FSPLoss, fsp_loss
from .ft_loss import FTLoss, ft_loss
from .hcl_loss import HCLLoss, hcl_loss
from .kl_divergence import KLDivergence, kl_divergence
from .l1_loss import L1Loss, l1_loss
from .mgd_loss import MGDLoss, mgd_loss
from .mosaic_objective import (
    adversarial_loss,
    alignment_loss,
    balance_loss,
    patch_discriminator_loss,
    patch_generator_loss,
)
from .mse_loss import MSELoss, mse_loss
from .nkd_loss import NKDLoss, nkd_loss
from .nst_loss import NSTLoss, nst_loss
from .ofd_loss import OFDLoss, ofd_loss, ofd_margin
from .pkt_loss import PKTLoss, pkt_loss
from .pskd_loss import PSKDLoss, pskd_loss
from .rkd_loss import RKDLoss, rkd_loss
from .sdd_loss import SDDLoss, region_logits, sdd_loss
from .sp_loss import SPLoss, sp_loss
from .structured_relation_loss import (
    StructuredRelationLoss,
    structured_relation_loss,
)
from .tfkd_loss import TFKDLoss, tfkd_loss
from .vid_loss import VIDLoss, vid_loss
from .wsld_loss import WSLDLoss, wsld_loss

__all__ = [
    'ABLoss',
    'ATLoss',
    'CCLoss',
    'CRDLoss',
    'CSKDLoss',
    'DISTLoss',
    'DKDLoss',
    'DLBLoss',
    'FSPLoss',
    'FTLoss',
    'HCLLoss',
    'KLDivergence',
    'L1Loss',
    'MGDLoss',
    'MSELoss',
    'NKDLoss',
    'NSTLoss',
    'OFDLoss',
    'PKTLoss',
    'PSKDLoss',
    'RKDLoss',
    'SDDLoss',
    'SPLoss',
    'StructuredRelationLoss',
    'TFKDLoss',
    'VIDLoss',
    'WSLDLoss',
    'ab_loss',
    'adversarial_loss',
    'alignment_loss',
    'at_loss',
    'balance_loss',
    'cc_loss',
    'clamped_js_divergence',
    'crd_embedding',
    'crd_log_z',
    'crd_loss',
    'cskd_loss',
    'dist_loss',
    'dkd_loss',
    'dlb_loss',
    'fsp_loss',
    'ft_loss',
    'hcl_loss',
    'kl_divergence',
    'l1_loss',
    'mgd_loss',
    'mse_loss',
    'nkd_loss',
    'nst_loss',
    'ofd_loss',
    'ofd_margin',
    'one_hot_loss',
    'patch_discriminator_loss',
    'patch_generator_loss',
    'pkt_loss',
    'pskd_loss',
    'region_logits',
    'rkd_loss',
    'sdd_loss',
    'sp_loss',
    'structured_relation_loss',
    'tfkd_loss',
    'total_variation_l1',
    'vid_loss',
    'wsld_loss',
]
