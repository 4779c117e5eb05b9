"""Project a student's map to the teacher's width, and pool it."""

from typing import Optional, Union

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmkd_plugin.models.connectors import PoolConnector
from mmkd_plugin.utils.checks import check_count, check_map


@MODELS.register_module()
class SimKDNeck(BaseModule):
    """The projector of SimKD, which stays in the student for good.

    A bottleneck of 1x1, 3x3 and 1x1 convolutions, each with a BN and a ReLU,
    brings the last map of the backbone to the width of the teacher's; the
    average over its places goes into the head, which is the teacher's:
    ``reuse_teacher_head=True`` of the algorithm. The loss compares the
    projected map, ``neck.projector``, with what the teacher pools::

        model=dict(
            type='SingleTeacherDistill',
            reuse_teacher_head=True,
            calculate_student_loss=False,
            student=dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(type='mmengine.CifarResNet', depth=8, width=4),
                neck=dict(type='mmengine.SimKDNeck', in_channels=256,
                          out_channels=256),
                head=dict(type='LinearClsHead', num_classes=100,
                          in_channels=256)),
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(
                    map=dict(type='ModuleOutputs', source='neck.projector')),
                teacher_recorders=dict(
                    map=dict(type='ModuleOutputs', source='backbone')),
                distill_losses=dict(loss_simkd=dict(type='MSELoss')),
                loss_forward_mappings=dict(loss_simkd=dict(
                    preds_S=dict(from_student=True, recorder='map'),
                    preds_T=dict(from_student=False, recorder='map',
                                 data_idx=-1)))),
            ...)

    Where the student's map is larger than the teacher's, it is averaged to
    that size first, ``map_size``. Where it is smaller, the teacher's is: by
    a ``PoolConnector`` on the teacher's side of the mapping.

    Reference:
        Chen et al., Knowledge Distillation with the Reused Teacher
        Classifier, CVPR 2022, https://arxiv.org/abs/2203.14001, with the
        layers of the published code (https://github.com/DefangChen/SimKD):
        ``factor=2``, the mean squared difference with a weight of 1 and no
        other loss.

    Args:
        in_channels (int): Channels of the student's last map.
        out_channels (int): Channels of the teacher's.
        factor (int): By how much the bottleneck is narrower than
            ``out_channels``. Defaults to 2.
        map_size (int or tuple[int, int], optional): Height and width of the
            teacher's map, or one number for both, where the student's is
            larger. Defaults to None, which keeps the student's.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> import torch
        >>> neck = SimKDNeck(16, 32)
        >>> [tuple(x.shape) for x in neck((torch.zeros(2, 16, 4, 4),))]
        [(2, 32)]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int = 2,
        map_size: Optional[Union[int, tuple[int, int]]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = check_count('in_channels', in_channels)
        check_count('out_channels', out_channels)
        check_count('factor', factor)
        width = out_channels // factor
        if width < 1:
            raise ValueError(
                f'factor must leave the bottleneck a channel of '
                f'{out_channels}, but got {factor}'
            )
        self.pool = nn.Identity()
        if map_size is not None:
            self.pool = PoolConnector(size=map_size)
        layers = []
        for before, behind, kernel_size in (
            (in_channels, width, 1),
            (width, width, 3),
            (width, out_channels, 1),
        ):
            padding = kernel_size // 2
            layers += [
                nn.Conv2d(
                    before, behind, kernel_size, padding=padding, bias=False
                ),
                nn.BatchNorm2d(behind),
                nn.ReLU(inplace=True),
            ]
        self.projector = nn.Sequential(*layers)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Project and pool the last map.

        Args:
            inputs (tuple[Tensor, ...]): Maps of the backbone, the last one
                of shape ``(N, in_channels, H, W)``.

        Returns:
            tuple[Tensor]: The pooled feature, shape ``(N, out_channels)``.

        Raises:
            ValueError: If the last map has another width.
        """
        check_map('what SimKDNeck gets', inputs[-1], self.in_channels)
        projected = self.projector(self.pool(inputs[-1]))
        return (adaptive_avg_pool2d(projected, 1).flatten(1),)
