"""Image classifiers of torchvision."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torchvision
from mmengine.registry import MODELS
from mmpretrain.models import BaseClassifier, ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmkd_plugin.utils.checks import nearest

PREFIX = 'model.'


@MODELS.register_module()
class TorchvisionClassifier(BaseClassifier):
    """A classifier of torchvision as a model of mmpretrain.

    It is to torchvision what mmpretrain's ``TimmClassifier`` is to timm. It
    loads checkpoints of torchvision strictly, and torchvision loads its
    checkpoints: the keys are the same. The torchvision model is the
    submodule ``model``, so a recorder's source is, for example,
    ``'model.layer4'``.

    GoogLeNet and Inception v3 return auxiliary logits in training, which are
    ignored; a student should be built with ``aux_logits=False``.

    Args:
        model_name (str): Name of a classification model in
            ``torchvision.models.list_models()``. Defaults to ``'resnet18'``.
        weights (str or WeightsEnum, optional): Pretrained weights that
            torchvision downloads, such as ``'DEFAULT'`` or
            ``'IMAGENET1K_V1'``. For a file use
            ``init_cfg=dict(type='Pretrained', checkpoint=...)``. Defaults to
            None.
        loss (dict or nn.Module): The classification loss. Defaults to
            ``dict(type='mmpretrain.CrossEntropyLoss')``.
        train_cfg (dict, optional): ``augments`` and ``probs`` of mmpretrain's
            batch augmentation. Defaults to None.
        data_preprocessor (dict or nn.Module, optional): Config of the
            preprocessor; its type is mmpretrain's ``ClsDataPreprocessor`` by
            default. Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None, which
            keeps torchvision's.
        **kwargs: Options of ``torchvision.models.get_model``, such as
            ``num_classes``.

    Raises:
        ValueError: If ``model_name`` or ``weights`` does not exist.

    Example:
        >>> import torch
        >>> from mmengine.registry import MODELS
        >>> model = MODELS.build(dict(
        ...     type='TorchvisionClassifier',
        ...     model_name='squeezenet1_1',
        ...     num_classes=10))
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        model_name: str = 'resnet18',
        weights: Optional[Any] = None,
        loss: Optional[Union[dict, nn.Module]] = None,
        train_cfg: Optional[dict] = None,
        data_preprocessor: Optional[Union[dict, nn.Module]] = None,
        init_cfg: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = dict(data_preprocessor or {})
            # mmengine builds it, hence the scope.
            data_preprocessor.setdefault(
                'type', 'mmpretrain.ClsDataPreprocessor'
            )
            if train_cfg is not None and 'augments' in train_cfg:
                data_preprocessor['batch_augments'] = train_cfg
        super().__init__(
            init_cfg=init_cfg, data_preprocessor=data_preprocessor
        )
        _check_names(model_name, weights)
        self.model = torchvision.models.get_model(
            model_name, weights=weights, **kwargs
        )
        self.head = ClsHead(
            loss=loss or dict(type='mmpretrain.CrossEntropyLoss')
        )
        # torchvision's models do not tell it; all have 1000 by default.
        self.head.num_classes = kwargs.get('num_classes', 1000)
        self._register_state_dict_hook(_remove_prefix)
        self._register_load_state_dict_pre_hook(_add_prefix, with_module=True)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Optional[Sequence[DataSample]] = None,
        mode: str = 'tensor',
    ) -> Union[Tensor, dict[str, Tensor], list[DataSample]]:
        """Run the model.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, 3, H, W)``.
            data_samples (Sequence[DataSample], optional): Labels. Needed
                with ``mode='loss'``. Defaults to None.
            mode (str): ``'tensor'``, ``'loss'`` or ``'predict'``. Defaults
                to ``'tensor'``.

        Returns:
            Tensor, dict[str, Tensor] or list[DataSample]: Logits of shape
            ``(B, num_classes)``; the losses; or data samples with
            ``pred_score`` and ``pred_label``.

        Raises:
            ValueError: If there is no such mode.
        """
        if mode not in ('tensor', 'loss', 'predict'):
            raise ValueError(
                f"mode must be 'tensor', 'loss' or 'predict', but got {mode!r}"
            )
        logits = self.model(inputs)
        if not isinstance(logits, Tensor):
            logits = logits.logits
        if mode == 'loss':
            return self.head.loss((logits,), data_samples)
        if mode == 'predict':
            return self.head.predict((logits,), data_samples)
        return logits


def _add_prefix(
    module: nn.Module, state_dict: dict, prefix: str, *args: Any
) -> None:
    """Turn torchvision's keys into those of the submodule."""
    rest = {
        name
        for part, child in module.named_children()
        if part + '.' != PREFIX
        for name in child.state_dict(prefix=part + '.')
    }
    for key in list(state_dict):
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name not in rest:
            state_dict[prefix + PREFIX + name] = state_dict.pop(key)
    # MNASNet refuses weights whose version it does not know.
    metadata = getattr(state_dict, '_metadata', {})
    if PREFIX[:-1] not in metadata:
        for name in list(metadata):
            metadata[f'{PREFIX}{name}'.rstrip('.')] = metadata[name]


def _remove_prefix(
    module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict
) -> None:
    """Turn the keys of the submodule into torchvision's."""
    start = prefix + PREFIX
    for key in list(state_dict):
        if key.startswith(start):
            state_dict[prefix + key[len(start) :]] = state_dict.pop(key)
    metadata = getattr(state_dict, '_metadata', {})
    for name in list(metadata):
        if f'{name}.'.startswith(start):
            outer = (prefix + name[len(start) :]).rstrip('.')
            metadata[outer] = metadata[name]


def _check_names(model_name: str, weights: Optional[Any]) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if model_name not in known:
        raise ValueError(
            f'torchvision has no classification model {model_name!r}; '
            f'{nearest(str(model_name), known)}'
        )
    if not isinstance(weights, str):
        return
    enum = torchvision.models.get_model_weights(model_name)
    if weights.removeprefix(f'{enum.__name__}.') not in enum.__members__:
        raise ValueError(
            f'{model_name} has no weights {weights!r}; known: '
            f'{", ".join(enum.__members__)}. For a file use '
            f"init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
