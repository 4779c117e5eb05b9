"""Samplers."""

from .adaptive_threshold_sampler import AdaptiveThresholdSampler
from .entropy_subset_sampler import EntropySubsetSampler
from .last_batch_sampler import LastBatchSampler
from .random_subset_sampler import RandomSubsetSampler
from .same_class_pair_sampler import SameClassPairSampler

__all__ = [
    'AdaptiveThresholdSampler',
    'EntropySubsetSampler',
    'LastBatchSampler',
    'RandomSubsetSampler',
    'SameClassPairSampler',
]
