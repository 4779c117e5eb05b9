"""A layer of a classifier as a function of images."""

from typing import Optional, Union

from torch import Tensor, nn

from mmkd_plugin.models.recorders import ModuleOutputs
from mmkd_plugin.models.recorders.module_recorder import find_module
from mmkd_plugin.utils.checks import check_count


class _Recorded(Exception):
    """The layer has been called: what comes after it is not needed."""


class LayerFeature:
    """What a module of a classifier returns, for normalised images.

    The model is put into eval mode and its parameters need no gradient any
    more. A forward pass ends at the layer. What is returned is a copy, so
    that a ReLU that follows in place, as all of mmpretrain's do, leaves it
    as it is: the layer before the ReLU is one before the ReLU.

    Args:
        model (nn.Module): A model with mmpretrain's
            ``forward(inputs, mode='tensor')``.
        layer (str): Dotted path of the module, such as
            ``'backbone.layer4'`` or ``'head.fc'``.
        record_idx (int): Which call of the module in a forward pass; the
            ReLU of a residual block is called twice. Defaults to 0.
        data_idx (int or str, optional): Which element, where the module
            returns a tuple, a list or a dict. Defaults to None.

    Raises:
        ValueError: If the model has no such module, with the nearest names,
            or if ``record_idx`` is no count.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mmkd_plugin.explain import LayerFeature
        >>> class Net(nn.Sequential):
        ...     def forward(self, inputs, mode='tensor'):
        ...         return super().forward(inputs)
        >>> net = Net(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(4, 2))
        >>> feature = LayerFeature(net, '0')
        >>> feature(torch.full((1, 1, 2, 2), -1.0))
        tensor([[-1., -1., -1., -1.]])
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        *,
        record_idx: int = 0,
        data_idx: Optional[Union[int, str]] = None,
    ) -> None:
        self.record_idx = check_count('record_idx', record_idx, least=0)
        self.data_idx = data_idx
        self.layer = layer
        self._recorder = ModuleOutputs(layer)
        module = find_module(model, layer)
        self._recorder.initialize(model)
        self._handle = module.register_forward_hook(self._stop)
        # Of mmpretrain's ResNet, train() returns None: no chaining.
        model.eval()
        model.requires_grad_(False)
        self.model = model

    def remove(self) -> None:
        """Take the hooks off the model."""
        self._handle.remove()
        self._recorder.remove()

    def _stop(self, module: nn.Module, args: tuple, output) -> None:
        if (
            self._recorder.recording
            and len(self._recorder.records) > self.record_idx
        ):
            raise _Recorded

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the feature.

        Args:
            images (Tensor): Normalised images, shape ``(n, C, H, W)``.

        Returns:
            Tensor: Shape ``(n, ...)``.

        Raises:
            ValueError: If the layer is not called that often, or returns
                something without such an element, or no tensor.
        """
        try:
            with self._recorder:
                self.model(images, mode='tensor')
        except _Recorded:
            pass
        try:
            feature = self._recorder.get_record(self.record_idx, self.data_idx)
        except RuntimeError as error:
            raise ValueError(f'layer {self.layer!r}: {error}') from None
        finally:
            self._recorder.clear()
        if not isinstance(feature, Tensor):
            keys = (
                list(feature)
                if isinstance(feature, dict)
                else list(range(len(feature)))
                if isinstance(feature, (tuple, list))
                else None
            )
            hint = f'; set data_idx to one of {keys}' if keys else ''
            raise ValueError(
                f'layer {self.layer!r} must return a tensor, but returns a '
                f'{type(feature).__name__}{hint}'
            )
        return feature
