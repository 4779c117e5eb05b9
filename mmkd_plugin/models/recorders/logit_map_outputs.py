"""Record the logits of every position of the last feature map."""

from typing import Any, Optional

from mmengine.registry import TASK_UTILS
from mmpretrain.models import (
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
)
from torch import Tensor, nn
from torch.nn import functional as F

from .module_recorder import ModuleRecorder, find_module


def _describe(module: Any) -> str:
    return 'none' if module is None else f'a {type(module).__name__}'


def _is_plain(module: Any, cls: type, *methods: str) -> bool:
    """Whether a module is of a class and has these methods from it."""
    return isinstance(module, cls) and all(
        getattr(type(module), name) is getattr(cls, name) for name in methods
    )


def _check_form(classifier: nn.Module, path: str) -> None:
    neck = getattr(classifier, 'neck', None)
    head = getattr(classifier, 'head', None)
    linear = getattr(head, 'fc', None)
    wrong = None
    if not _is_plain(classifier, ImageClassifier, 'extract_feat'):
        wrong = f'is {_describe(classifier)}'
    elif not (
        _is_plain(neck, GlobalAveragePooling, 'forward')
        and isinstance(neck.gap, nn.AdaptiveAvgPool2d)
    ):
        dim = ''
        if isinstance(neck, GlobalAveragePooling):
            dim = f' with {type(neck.gap).__name__}'
        wrong = f'has as neck {_describe(neck)}{dim}'
    elif not _is_plain(head, LinearClsHead, 'forward', 'pre_logits'):
        wrong = f'has as head {_describe(head)}'
    elif not _is_plain(linear, nn.Linear, 'forward'):
        wrong = f'has as head.fc {_describe(linear)}'
    if wrong is not None:
        where = repr(path) if path else 'the model'
        raise ValueError(
            f'a logit map needs an ImageClassifier of a backbone, the neck '
            f'GlobalAveragePooling (of 2 dimensions) and a LinearClsHead, '
            f'none of them with a forward pass of its own, but {where} '
            f'{wrong}. Where some module of it returns a map of logits '
            f'(B, K, H, W), record that with ModuleOutputs; for the plain '
            f'logits, ModuleOutputs on the last layer will do'
        )


def _classifier_first(positions: int, cells: int, linear: nn.Linear) -> bool:
    """Whether it is less work to classify before pooling than after."""
    inputs, classes = linear.in_features, linear.out_features
    before = positions * inputs * classes + positions * classes
    after = positions * inputs + cells * inputs * classes
    return before < after


def logit_map(
    feature: Tensor, linear: nn.Linear, grid_size: Optional[int] = None
) -> Tensor:
    """Apply a classifier to every position of a feature map.

    Pooling and classifier are both linear, so they can change places; the
    order is the one with fewer multiplications and additions.

    Args:
        feature (Tensor): Feature map, shape ``(B, C, H, W)``, in any memory
            format.
        linear (nn.Linear): The classifier, from C to K.
        grid_size (int, optional): A map that is larger in both directions is
            average-pooled to this size. Defaults to None, which pools
            nothing.

    Returns:
        Tensor: Logits, shape ``(B, K, H, W)`` or ``(B, K, grid_size,
        grid_size)``.
    """
    height, width = feature.shape[-2:]
    pools = grid_size is not None and min(height, width) > grid_size
    pools_last = pools and _classifier_first(
        height * width, grid_size**2, linear
    )
    if pools and not pools_last:
        feature = F.adaptive_avg_pool2d(feature, grid_size)
    kernel = linear.weight[:, :, None, None]
    logits = F.conv2d(feature, kernel, linear.bias)
    if pools_last:
        logits = F.adaptive_avg_pool2d(logits, grid_size)
    return logits


@TASK_UTILS.register_module()
class LogitMapOutputs(ModuleRecorder):
    """Record the logits of every position of the last feature map.

    For a mmpretrain classifier of a backbone, global average pooling and a
    linear head. The record is the map ``(B, K, H, W)`` that its linear layer,
    bias included, makes of the feature map that goes into the pooling;
    gradients flow into features and layer. The mean of the map over all
    positions is the plain logits of the model. :class:`SDDLoss` takes such
    maps.

    With ``grid_size`` a larger map is pooled to that size, which costs less:
    most of the positions need not be classified. ``grid_size=4`` is the first
    step of the nested pooling of :class:`SDDLoss`, which computes the same
    from it if none of its scales is finer.

    Reference:
        Wei et al., Scaled Decoupled Distillation, CVPR 2024,
        https://arxiv.org/abs/2403.13512, whose loss compares such maps. The
        published code classifies pooled features, which is the same, as
        both steps are linear.

    Args:
        source (str): Dotted path of the classifier, an ``ImageClassifier``.
            Defaults to the empty string, the model itself.
        grid_size (int, optional): Size, at least 1, that maps are pooled to
            which are larger in both directions; others stay as they are.
            Defaults to None, no pooling.

    Raises:
        ValueError: If ``grid_size`` is no positive integer.
    """

    def __init__(
        self, source: str = '', grid_size: Optional[int] = None
    ) -> None:
        super().__init__(source)
        if grid_size is not None and (
            not isinstance(grid_size, int)
            or isinstance(grid_size, bool)
            or grid_size < 1
        ):
            raise ValueError(
                f'grid_size must be None or an integer >= 1, but got '
                f'{grid_size!r}'
            )
        self.grid_size = grid_size
        self._head = None

    def initialize(self, model: nn.Module) -> None:
        """See :meth:`BaseRecorder.initialize`.

        Args:
            model (nn.Module): The student or the teacher.

        Raises:
            ValueError: If it has no such classifier, or one of another form.
        """
        classifier = find_module(model, self.source)
        _check_form(classifier, self.source)
        neck = classifier.neck
        if (
            self._handle is None
            or self._handle.id not in neck._forward_pre_hooks
        ):
            self.remove()
            self._handle = self.install(neck)
        # Not the layer: it may be replaced.
        self._head = classifier.head

    def install(self, module: nn.Module) -> Any:
        """See :meth:`ModuleRecorder.install`."""
        return module.register_forward_pre_hook(self._record)

    def remove(self) -> None:
        """Remove the hook and let go of the head."""
        super().remove()
        self._head = None

    def _record(self, module: nn.Module, args: tuple) -> None:
        if self.recording:
            # The head takes the last of the maps.
            feature = args[0][-1]
            self.records.append(
                logit_map(feature, self._head.fc, self.grid_size)
            )
