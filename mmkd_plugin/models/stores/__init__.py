"""Stores: what a scheme remembers of the samples it has seen."""

from .prediction_store import PredictionStore

__all__ = ['PredictionStore']
