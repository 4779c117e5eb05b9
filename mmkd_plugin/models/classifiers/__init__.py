"""Classifiers besides those of mmpretrain."""

from .partly_frozen_classifier import PartlyFrozenClassifier
from .torchvision_classifier import TorchvisionClassifier

__all__ = ['PartlyFrozenClassifier', 'TorchvisionClassifier']
