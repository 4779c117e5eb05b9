"""What happens to a batch between the data loader and the model."""

from .batch_aug_data_preprocessor import BatchAugDataPreprocessor

__all__ = ['BatchAugDataPreprocessor']
