"""Fuse the stages of a student, from the deepest to the shallowest."""

from collections.abc import Sequence
from typing import Optional, Union

import torch
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmkd_plugin.utils.checks import check_count, check_map, nearest

from .pool_connector import check_size

# No more channels than this between the two convolutions of a stage.
_MOST_MID_CHANNELS = 512


def _resized(feature: Tensor, size: Sequence[int]) -> Tensor:
    if feature.shape[2:] == tuple(size):
        return feature
    return interpolate(feature, tuple(size), mode='nearest')


class _Fusion(nn.Module):
    """Merge a stage with what came of the deeper ones."""

    def __init__(
        self, in_channels: int, mid: int, out_channels: int, deepest: bool
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, mid, 1, bias=False), nn.BatchNorm2d(mid)
        )
        self.attention = None if deepest else nn.Conv2d(2 * mid, 2, 1)
        self.expand = nn.Sequential(
            nn.Conv2d(mid, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        for conv in (self.reduce[0], self.expand[0]):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(
        self,
        feature: Tensor,
        deeper: Optional[Tensor],
        size: Optional[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Return the map for the loss and the one for the next stage."""
        fused = self.reduce(feature)
        if self.attention is not None:
            deeper = _resized(deeper, fused.shape[2:])
            both = torch.cat([fused, deeper], dim=1)
            own, others = self.attention(both).sigmoid().split(1, dim=1)
            fused = own * fused + others * deeper
        if size is not None:
            fused = _resized(fused, size)
        return self.expand(fused), fused


@MODELS.register_module()
class ReviewConnector(BaseModule):
    r"""The fusion of stages of knowledge review.

    A stage's map :math:`f_k`, brought to a common width, is merged with
    what came of the deeper stages, by two attention maps that are computed
    of both:

    .. math::
        x_k = \mathrm{BN}(\mathrm{conv}_{1 \times 1}(f_k)), \quad
        y_k = \mathrm{nearest}(u_{k+1}), \quad
        (a, b) = \sigma(\mathrm{conv}_{1 \times 1}([x_k, y_k])), \quad
        u_k = a\, x_k + b\, y_k

    with :math:`u_k = x_k` at the deepest stage. Its output is
    :math:`\mathrm{BN}(\mathrm{conv}_{3 \times 3}(u_k))`, at the width of
    the teacher. All of it is trained with the student. ``HCLLoss`` compares
    the outputs, one instance for each stage.

    The record of the mapping is the shallowest stage. The deeper ones are
    ``connector_inputs`` called ``level2``, ``level3`` and so on, whatever
    their order in the config; ``connector_idx`` counts the outputs in the
    same way, from 0, the shallowest. Losses that name equal inputs share one
    run of the connector in a step. ResNet-8x4 with the teacher ResNet-32x4,
    whose fourth level is the pooled feature::

        connectors=dict(
            review=dict(type='ReviewConnector',
                        in_channels=[64, 128, 256, 256],
                        out_channels=[64, 128, 256, 256]),
            pool=dict(type='PoolConnector', size=1)),
        loss_forward_mappings=dict(
            loss_level1=dict(
                preds_S=dict(
                    from_student=True, recorder='layer1', connector='review',
                    connector_inputs=dict(
                        level2=dict(from_student=True, recorder='layer2'),
                        level3=dict(from_student=True, recorder='layer3'),
                        level4=dict(from_student=True, recorder='layer3',
                                    connector='pool')),
                    connector_idx=0),
                preds_T=dict(from_student=False, recorder='layer1')),
            ...)

    Reference:
        Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021,
        https://arxiv.org/abs/2104.09044, section 3.2, with the layers,
        their initialisation and the widths of the published code
        (https://github.com/dvlab-research/ReviewKD): ``mid_channels`` is 512,
        or the width of the deepest stage where that is less, on CIFAR-100
        and for ResNet-18 on ImageNet, and 256 for its MobileNet. It records
        the student's stages behind their ReLU and the teacher's in front of
        it; the pooled feature of both is that of the map behind the ReLU.
        The loss has a weight of 5.0 for ResNet-8x4, and a warm-up over 20
        epochs, see :class:`HCLLoss`.

    Args:
        in_channels (Sequence[int]): Channels of the student's stages, from
            the shallowest to the deepest.
        out_channels (Sequence[int]): Channels of the teacher's, one number a
            stage.
        mid_channels (int, optional): Channels between the two convolutions
            of a stage. Defaults to None: 512, or the last of
            ``in_channels`` where that is less.
        out_sizes (Sequence[int or tuple[int, int]], optional): Heights and
            widths of the teacher's maps, one entry a stage, where they are
            not those of the student's; a fused map is resized in front of
            its 3x3 convolution. Defaults to None, which keeps the sizes of
            the student's maps.
        init_cfg (dict, optional): Initialisation. Defaults to None, which is
            the published one.

    Raises:
        ValueError: If an option is out of its range, or if the options have
            different numbers of stages.

    Examples:
        >>> import torch
        >>> connector = ReviewConnector([4, 8], [6, 12])
        >>> maps = torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 4, 4)
        >>> [tuple(m.shape) for m in connector(maps[0], level2=maps[1])]
        [(2, 6, 8, 8), (2, 12, 4, 4)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        *,
        mid_channels: Optional[int] = None,
        out_sizes: Optional[Sequence[Union[int, tuple[int, int]]]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        options = dict(in_channels=in_channels, out_channels=out_channels)
        if out_sizes is not None:
            options['out_sizes'] = out_sizes
        for name, value in options.items():
            if not isinstance(value, (list, tuple)) or len(value) < 2:
                raise ValueError(
                    f'{name} must have one entry for each of at least 2 '
                    f'stages, but got {value!r}'
                )
            if len(value) != len(in_channels):
                raise ValueError(
                    f'{name} must have one entry for each of the '
                    f'{len(in_channels)} stages of in_channels, but got '
                    f'{value!r}'
                )
        for name in ('in_channels', 'out_channels'):
            for k, width in enumerate(options[name]):
                check_count(f'{name}[{k}]', width)
        if mid_channels is None:
            mid_channels = min(_MOST_MID_CHANNELS, in_channels[-1])
        check_count('mid_channels', mid_channels)
        self.in_channels = tuple(in_channels)
        # What a mapping must give beside the shallowest stage.
        self.required_arguments = tuple(
            f'level{k}' for k in range(2, len(in_channels) + 1)
        )
        self.out_sizes = (None,) * len(in_channels)
        if out_sizes is not None:
            self.out_sizes = tuple(
                check_size(f'out_sizes[{k}]', size)
                for k, size in enumerate(out_sizes)
            )
        deepest = len(in_channels) - 1
        self.fusions = ModuleList(
            _Fusion(width, mid_channels, out_width, k == deepest)
            for k, (width, out_width) in enumerate(
                zip(in_channels, out_channels, strict=True)
            )
        )

    def forward(self, feature: Tensor, **deeper: Tensor) -> tuple[Tensor, ...]:
        """Fuse the stages.

        Args:
            feature (Tensor): Map of the shallowest stage, shape ``(N,
                in_channels[0], H, W)``.
            **deeper (Tensor): Maps of the deeper stages, ``level2`` to the
                deepest, of the widths of ``in_channels``.

        Returns:
            tuple[Tensor, ...]: The fused maps, shape ``(N,
            out_channels[k], H_k, W_k)``, from the shallowest to the deepest
            stage.

        Raises:
            ValueError: If there are not as many maps as ``in_channels``, or
                if one is no map of its width.
        """
        maps = self._maps(feature, deeper)
        fused, outputs = None, []
        for stage, fusion, size in zip(
            reversed(maps),
            reversed(self.fusions),
            reversed(self.out_sizes),
            strict=True,
        ):
            output, fused = fusion(stage, fused, size)
            outputs.append(output)
        return tuple(reversed(outputs))

    def _maps(self, feature: Tensor, deeper: dict[str, Tensor]) -> list:
        """List the maps from the shallowest to the deepest, checked."""
        count = len(self.in_channels)
        names = [f'level{k}' for k in range(2, count + 1)]
        for name in deeper:
            if name not in names:
                raise ValueError(
                    f'a ReviewConnector of {count} stages takes, besides the '
                    f'shallowest, {", ".join(names)}, but got {name!r}; '
                    f'{nearest(name, names)}'
                )
        missing = [name for name in names if name not in deeper]
        if missing:
            raise ValueError(
                f'a ReviewConnector of {count} stages needs {count} maps, '
                f'but got {1 + len(deeper)}: give {", ".join(missing)} as '
                f'connector_inputs'
            )
        maps = dict(level1=feature, **deeper)
        maps = {name: maps[name] for name in ('level1', *names)}
        for (name, stage), width in zip(
            maps.items(), self.in_channels, strict=True
        ):
            check_map(name, stage, width)
        return list(maps.values())
