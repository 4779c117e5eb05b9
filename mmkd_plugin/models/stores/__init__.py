"""Stores: what a scheme remembers of the samples it has seen."""

from .contrast_memory import ContrastMemory
from .last_batch_store import LastBatchStore
from .prediction_store import PredictionStore

__all__ = ['ContrastMemory', 'LastBatchStore', 'PredictionStore']
