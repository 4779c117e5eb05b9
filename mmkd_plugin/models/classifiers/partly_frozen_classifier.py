"""A classifier some of whose modules do not learn."""

import os
from collections.abc import Sequence
from typing import Any, Optional

from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier

from mmkd_plugin.utils.checkpoint import load_strict, load_weights

from ..recorders.module_recorder import find_module


@MODELS.register_module()
class PartlyFrozenClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` with frozen modules.

    These have parameters without gradient, and stay in eval mode whatever
    ``train()`` says, so that running statistics do not change either. DDP
    does not look for their gradients: it trains with
    ``find_unused_parameters=False`` where a module is frozen that the loss
    does not depend on, such as the head of a student that learns features.

    Args:
        frozen (Sequence[str]): Dotted paths of the frozen modules, such as
            ``['backbone.conv1', 'backbone.layer1']``.
        checkpoint (str, optional): Checkpoint of the whole classifier to
            start from, loaded strictly. Defaults to None.
        **kwargs: ``backbone``, ``neck``, ``head`` and the other arguments of
            :class:`mmpretrain.models.ImageClassifier`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If a path does not exist, nothing or everything is
            frozen, or the checkpoint does not fit.

    Example:
        >>> from mmengine.registry import MODELS
        >>> model = MODELS.build(dict(
        ...     type='PartlyFrozenClassifier',
        ...     frozen=['backbone'],
        ...     backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18),
        ...     neck=dict(type='mmpretrain.GlobalAveragePooling'),
        ...     head=dict(type='mmpretrain.LinearClsHead', num_classes=10,
        ...               in_channels=512)))
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['head.fc.weight', 'head.fc.bias']
        >>> model.train().backbone.training
        False
    """

    def __init__(
        self,
        *,
        frozen: Sequence[str],
        checkpoint: Optional[str] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (
            isinstance(frozen, str)
            or not frozen
            or not all(isinstance(path, str) for path in frozen)
        ):
            raise ValueError(
                f'frozen must be a list of paths of modules, such as '
                f"['backbone'], but got {frozen!r}"
            )
        self.frozen = tuple(frozen)
        self.checkpoint = checkpoint
        for path in self.frozen:
            find_module(self, path).requires_grad_(False)
        if not any(p.requires_grad for p in self.parameters()):
            raise ValueError(
                f'frozen must leave something to train, but '
                f'{list(self.frozen)} is all of the classifier'
            )
        self._load()

    def _load(self) -> None:
        if self.checkpoint is not None:
            path = os.fspath(self.checkpoint)
            load_strict(self, load_weights(path), 'classifier', path)

    def init_weights(self) -> None:
        """Initialise the weights, then load the checkpoint, if any."""
        super().init_weights()
        self._load()

    def train(self, mode: bool = True) -> 'PartlyFrozenClassifier':
        """Set the mode of all but the frozen modules.

        Args:
            mode (bool): Training or evaluation. Defaults to True.

        Returns:
            PartlyFrozenClassifier: This model.
        """
        super().train(mode)
        # By path: SyncBN replaces modules.
        for path in self.frozen:
            find_module(self, path).train(False)
        return self
