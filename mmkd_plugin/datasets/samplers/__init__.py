"""Samplers."""

from .adaptive_threshold_sampler import AdaptiveThresholdSampler
from .random_subset_sampler import RandomSubsetSampler

__all__ = ['AdaptiveThresholdSampler', 'RandomSubsetSampler']
