"""Scaled decoupled distillation: the logits of image regions."""

import functools
import inspect
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checks import (
    check_choice,
    check_flag,
    check_labels,
    check_number,
    check_tensors,
)
from mmkd_plugin.utils.precision import full_precision

from .kl_divergence import kl_divergence

WEIGHT_RULES = ('label', 'teacher_global')
REDUCTIONS = ('mean', 'sum')
# The grid that the published code pools to before anything else.
_NESTED_GRID = 4


def _check_scales(scales: Sequence[int]) -> tuple[int, ...]:
    wanted = (
        'scales must be increasing positive integers, the cells per side of '
        f'each grid, for example (1, 2, 4), but got {scales!r}'
    )
    if isinstance(scales, str) or not isinstance(scales, Sequence):
        raise ValueError(wanted)
    if not scales:
        raise ValueError(wanted)
    for scale in scales:
        if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
            raise ValueError(wanted)
    if any(a >= b for a, b in itertools.pairwise(scales)):
        raise ValueError(wanted)
    return tuple(scales)


# A compiled step takes it for a constant, too.
@torch.compiler.assume_constant_result
@functools.lru_cache(maxsize=64)
def _region_matrix(
    height: int,
    width: int,
    scales: tuple[int, ...],
    nested_pool: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Get the matrix ``(regions, H * W)`` that averages over the regions."""
    # A tensor made in inference mode could not be used by autograd later.
    with torch.inference_mode(False), torch.no_grad():
        cells = torch.eye(height * width, dtype=torch.float64)
        cells = cells.view(-1, 1, height, width)
        if nested_pool:
            cells = adaptive_avg_pool2d(cells, max(_NESTED_GRID, *scales))
        rows = [adaptive_avg_pool2d(cells, s).flatten(1).t() for s in scales]
        return torch.cat(rows).to(device, dtype).contiguous()


def _regions(
    maps: Tensor, scales: tuple[int, ...], nested_pool: bool
) -> Tensor:
    batch, classes, height, width = maps.shape
    matrix = _region_matrix(
        height, width, scales, nested_pool, maps.dtype, maps.device
    )
    # One product for all scales, in the memory order that the map has.
    if maps.is_contiguous():
        flat = maps.view(batch * classes, height * width)
        return (matrix @ flat.t()).view(len(matrix), batch, classes)
    return (matrix @ maps.flatten(2).transpose(1, 2)).transpose(0, 1)


@full_precision
def region_logits(
    maps: Tensor,
    scales: Sequence[int] = (1, 2, 4),
    nested_pool: bool = True,
) -> Tensor:
    r"""Average a logit map over the cells of grids of several sizes.

    Args:
        maps (Tensor): Logit maps, shape ``(B, K, H, W)``.
        scales (Sequence[int]): Cells per side of each grid, as
            :func:`torch.nn.functional.adaptive_avg_pool2d` divides a map.
            Defaults to (1, 2, 4).
        nested_pool (bool): Whether the map is averaged to a 4x4 grid first
            (or to that of the finest scale, if finer), and the grids are
            made from that. The two are the same where height and width are
            multiples of 4. Defaults to True.

    Returns:
        Tensor: Shape ``(R, B, K)`` with ``R`` the sum of the squared scales:
        all cells of the first grid row by row, then of the next.
    """
    return _regions(maps, tuple(scales), nested_pool)


def _check_maps(preds_S: Tensor, preds_T: Tensor) -> None:
    check_tensors(preds_S=preds_S, preds_T=preds_T)
    for name, preds in dict(preds_S=preds_S, preds_T=preds_T).items():
        if (
            preds.dim() != 4
            or 0 in preds.shape[1:]
            or not preds.is_floating_point()
        ):
            raise ValueError(
                f'{name} must be logit maps of shape (B, K, H, W), as '
                f'LogitMapOutputs records them, but got {preds.dtype} '
                f'of shape {tuple(preds.shape)}'
            )
    if preds_S.shape[:2] != preds_T.shape[:2]:
        raise ValueError(
            f'student and teacher must have the same number of images and of '
            f'classes, but got {tuple(preds_S.shape[:2])} and '
            f'{tuple(preds_T.shape[:2])}'
        )


def _kd(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    return kl_divergence(preds_S, preds_T, tau=4.0, reduction='none')


@torch.compiler.assume_constant_result
@functools.lru_cache(maxsize=64)
def _has_labels(function: Callable) -> bool:
    return 'gt_labels' in inspect.signature(function).parameters


def _takes_labels(loss: Callable) -> bool:
    # By class, so that the cache keeps no module alive.
    return _has_labels(
        type(loss).forward if isinstance(loss, nn.Module) else loss
    )


@full_precision
def sdd_loss(
    preds_S: Tensor,
    preds_T: Tensor,
    gt_labels: Optional[Tensor] = None,
    base_loss: Callable[..., Tensor] = _kd,
    scales: Sequence[int] = (1, 2, 4),
    weight_rule: str = 'label',
    consistent_weight: float = 1.0,
    complementary_weight: float = 2.0,
    reduction: str = 'mean',
    nested_pool: bool = True,
    teacher_connector: Optional[Callable[[Tensor], Tensor]] = None,
    student_connector: Optional[Callable[[Tensor], Tensor]] = None,
) -> Tensor:
    r"""Distil the logits of image regions at several scales.

    .. math::
        L = \frac{1}{R B} \sum_{r=1}^{R} \sum_{b=1}^{B} w_{rb}\,
            \ell(s_{rb}, t_{rb})

    where :math:`s_{rb}, t_{rb}` are the maps averaged over region :math:`r`
    (:func:`region_logits`). A region is complementary, with its own weight
    :math:`w`, if its answer and that of the whole image differ, and
    consistent otherwise.

    Args:
        preds_S (Tensor): Logit maps of the student, shape
            ``(B, K, H, W)``, finite.
        preds_T (Tensor): Logit maps of the teacher, shape
            ``(B, K, H', W')``, finite; no gradient flows into them.
        gt_labels (Tensor, optional): Labels, an integer tensor of shape
            ``(B,)``. Needed by the rule ``'label'`` and by base losses that
            take labels. Defaults to None.
        base_loss (Callable): Takes ``preds_S`` and ``preds_T`` of shape
            ``(R * B, K)`` and, if it has that argument, ``gt_labels`` of
            shape ``(R * B,)``, and returns ``(R * B,)``. Defaults to the KL
            divergence at temperature 4.
        scales (Sequence[int]): Cells per side of each grid, increasing.
            Defaults to (1, 2, 4).
        weight_rule (str): ``'label'``: answers differ if one is the label
            and the other is not. ``'teacher_global'``: if they are not the
            same class. A region ties with its own highest class. Defaults to
            ``'label'``.
        consistent_weight (float): Weight of consistent regions. Defaults to
            1.0.
        complementary_weight (float): Weight of complementary regions.
            Defaults to 2.0.
        reduction (str): ``'mean'`` over the regions or their ``'sum'``; over
            the images it is the mean. Defaults to ``'mean'``.
        nested_pool (bool): See :func:`region_logits`. Defaults to True.
        teacher_connector (Callable, optional): Applied to the teacher's
            region logits, after the weights are known. Defaults to None.
        student_connector (Callable, optional): Applied to the student's
            region logits. Defaults to None.

    Returns:
        Tensor: Shape ``(2,)``, the terms of the consistent and of the
        complementary regions, whose sum is the loss; float32, float64 for
        float64.

    Raises:
        ValueError: If shapes or labels do not fit, or if ``base_loss`` does
            not return one value a region and image.
    """
    _check_maps(preds_S, preds_T)
    batch = preds_S.shape[0]
    with torch.no_grad():
        # The whole image leads, also where it is no region of the loss.
        whole = () if scales[0] == 1 else (1,)
        regions_T = _regions(preds_T, (*whole, *scales), nested_pool)
        if weight_rule == 'label':
            reference = check_labels(gt_labels, preds_S)
        else:
            reference = regions_T[0].argmax(dim=-1)
        wanted = reference.expand(len(regions_T), -1).unsqueeze(-1)
        # Whether a region's answer is the label, or the whole image's.
        right = regions_T.gather(-1, wanted).squeeze(-1) == regions_T.amax(-1)
        complementary = (right != right[0])[len(whole) :]
        regions_T = regions_T[len(whole) :].flatten(0, 1)
    regions_S = _regions(preds_S, tuple(scales), nested_pool)
    count = regions_S.shape[0]
    regions_S = regions_S.flatten(0, 1)
    if teacher_connector is not None:
        regions_T = teacher_connector(regions_T)
    if student_connector is not None:
        regions_S = student_connector(regions_S)
    labels = {}
    if _takes_labels(base_loss):
        labels['gt_labels'] = check_labels(gt_labels, preds_S).repeat(count)
    losses = base_loss(preds_S=regions_S, preds_T=regions_T, **labels)
    if losses.shape != (count * batch,):
        raise ValueError(
            f'base_loss must return one value a region and image, shape '
            f'({count * batch},), but got {tuple(losses.shape)}'
        )
    divisor = max(batch, 1) * (count if reduction == 'mean' else 1)
    differs = complementary.flatten().to(losses.dtype)
    weights = torch.stack(
        [
            (1 - differs) * (consistent_weight / divisor),
            differs * (complementary_weight / divisor),
        ]
    )
    return weights @ losses


def _build_base_loss(config: dict) -> nn.Module:
    if isinstance(config, dict) and 'reduction' in config:
        raise ValueError(
            f'base_loss must leave its reduction to SDDLoss, but got {config}'
        )
    if isinstance(config, dict):
        config = dict(config, reduction='none')
    try:
        loss = build_part('base_loss', MODELS, config)
    except ValueError as error:
        if not any(
            phrase in str(error)
            for phrase in ("no option 'reduction'", "got 'none'")
        ):
            raise
        raise ValueError(
            f"{error}; SDDLoss needs a loss with reduction='none'"
        ) from None
    parameters = inspect.signature(loss.forward).parameters
    needed = {
        name
        for name, p in parameters.items()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    logits = {'preds_S', 'preds_T'}
    if not logits <= set(parameters) or needed - logits - {'gt_labels'}:
        raise ValueError(
            f'base_loss must be a loss of preds_S, preds_T and, perhaps, '
            f'gt_labels, but got {type(loss).__name__} with '
            f'{list(parameters)}'
        )
    return loss


def _build_connector(name: str, config: Optional[dict]) -> Optional[nn.Module]:
    return None if config is None else build_part(name, MODELS, config)


@MODELS.register_module()
class SDDLoss(nn.Module):
    r"""Scaled decoupled distillation of logits.

    With ``KLDivergence`` as the base loss this is SDD-KD, with ``DKDLoss``
    SDD-DKD and with ``NKDLoss`` SDD-NKD. Record the maps with
    ``LogitMapOutputs``. The student's cross entropy is that of its own head.

    ``log_terms`` holds the two terms of the last forward pass for the log,
    ``consistent`` and ``complementary``; their sum is the loss.

    Reference:
        Wei et al., Scaled Decoupled Distillation, CVPR 2024,
        https://arxiv.org/abs/2403.13512, equations 6 to 9. Defaults are those
        of the published code
        (https://github.com/shicaiwei123/SDD-CVPR2024), with whose numbers
        they agree. Where the paper differs, it is an option:
        ``weight_rule='teacher_global'`` (a region is complementary if its
        class is not that of the whole image; needs no labels), ``reduction=
        'sum'`` (equation 9), ``nested_pool=False`` (the published code pools
        the coarse grids from the 4x4 one, so that for a 7x7 map the coarsest
        is not the mean). In its base losses the code takes
        ``NKDLoss(mask_target=False)``.

    Args:
        base_loss (dict): Config of the loss of one region, any registered
            loss of logits ``(N, K)`` with ``reduction='none'``. Defaults to
            ``dict(type='KLDivergence', tau=4.0)``.
        scales (Sequence[int]): Cells per side of each grid, increasing.
            Defaults to (1, 2, 4).
        weight_rule (str): ``'label'`` or ``'teacher_global'``, see
            :func:`sdd_loss`. Defaults to ``'label'``.
        consistent_weight (float): Weight of regions that answer as the whole
            image does, not negative. Defaults to 1.0.
        complementary_weight (float): Weight of the others, not negative.
            Defaults to 2.0.
        reduction (str): ``'mean'`` over the regions or their ``'sum'``.
            Defaults to ``'mean'``.
        nested_pool (bool): See :func:`region_logits`. Defaults to True.
        teacher_connector (dict, optional): Config of a connector for the
            teacher's region logits ``(N, K)``, such as ``ClassDropMask``;
            before the pooling, ``-inf`` would spread. Defaults to None.
        student_connector (dict, optional): The same for the student's.
            Defaults to None.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> loss = SDDLoss(scales=(1, 2), weight_rule='teacher_global')
        >>> maps = torch.arange(24.0).view(1, 3, 4, 2)
        >>> loss(maps, maps).item()
        0.0
    """

    def __init__(
        self,
        *,
        base_loss: Optional[dict] = None,
        scales: Sequence[int] = (1, 2, 4),
        weight_rule: str = 'label',
        consistent_weight: float = 1.0,
        complementary_weight: float = 2.0,
        reduction: str = 'mean',
        nested_pool: bool = True,
        teacher_connector: Optional[dict] = None,
        student_connector: Optional[dict] = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if base_loss is None:
            # With its scope: MMRazor has a class of that name, too.
            base_loss = dict(type='mmengine.KLDivergence', tau=4.0)
        self.base_loss = _build_base_loss(base_loss)
        self.scales = _check_scales(scales)
        self.weight_rule = check_choice(
            'weight_rule', weight_rule, WEIGHT_RULES
        )
        self.consistent_weight = check_number(
            'consistent_weight', consistent_weight, least=0
        )
        self.complementary_weight = check_number(
            'complementary_weight', complementary_weight, least=0
        )
        self.reduction = check_choice('reduction', reduction, REDUCTIONS)
        self.nested_pool = check_flag('nested_pool', nested_pool)
        self.teacher_connector = _build_connector(
            'teacher_connector', teacher_connector
        )
        self.student_connector = _build_connector(
            'student_connector', student_connector
        )
        if self.teacher_connector and list(
            self.teacher_connector.parameters()
        ):
            raise ValueError(
                f'teacher_connector must have nothing to learn, as no '
                f'gradient flows there, but got {teacher_connector}'
            )
        self.loss_weight = check_number('loss_weight', loss_weight)
        #: Arguments of ``forward`` that these options need.
        self.required_arguments = (
            ('gt_labels',)
            if weight_rule == 'label' or _takes_labels(self.base_loss)
            else ()
        )
        self.log_terms = {}
        self._warned = False

    def check_recorders(self, recorders: dict[str, Any]) -> None:
        """Check that maps are not recorded on another grid than is pooled.

        Args:
            recorders (dict[str, BaseRecorder]): The recorders of ``preds_S``
                and ``preds_T``.

        Raises:
            ValueError: If one has a ``grid_size`` that changes the loss.
        """
        grid = max(_NESTED_GRID, *self.scales) if self.nested_pool else None
        for argument, recorder in recorders.items():
            size = getattr(recorder, 'grid_size', None)
            if size is not None and size != grid:
                fits = 'None' if grid is None else f'None or {grid}'
                raise ValueError(
                    f'{argument} is recorded with grid_size={size}, but '
                    f'nested_pool={self.nested_pool} and scales={self.scales} '
                    f'need grid_size={fits}'
                )

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        gt_labels: Optional[Tensor] = None,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            preds_S (Tensor): Logit maps of the student, ``(B, K, H, W)``.
            preds_T (Tensor): Logit maps of the teacher, ``(B, K, H', W')``.
            gt_labels (Tensor, optional): Labels, an integer tensor ``(B,)``.
                Defaults to None.

        Returns:
            Tensor: The loss, a scalar.
        """
        terms = sdd_loss(
            preds_S,
            preds_T,
            gt_labels,
            self.base_loss,
            self.scales,
            self.weight_rule,
            self.loss_weight * self.consistent_weight,
            self.loss_weight * self.complementary_weight,
            self.reduction,
            self.nested_pool,
            self.teacher_connector,
            self.student_connector,
        )
        self._warn_of_small_maps(student=preds_S, teacher=preds_T)
        consistent, complementary = terms.detach()
        self.log_terms = dict(
            consistent=consistent, complementary=complementary
        )
        return terms.sum()

    def _warn_of_small_maps(self, **maps: Tensor) -> None:
        if self._warned:
            return
        finest = self.scales[-1]
        for name, preds in maps.items():
            height, width = preds.shape[2:]
            if min(height, width) < finest:
                print_log(
                    f'SDDLoss: the logit map of the {name} is {height}x'
                    f'{width}, smaller than the finest grid of {finest}x'
                    f'{finest} of scales={self.scales}, which repeats its '
                    f'values',
                    logger='current',
                    level=logging.WARNING,
                )
                self._warned = True
