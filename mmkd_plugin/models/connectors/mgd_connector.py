"""Mask a student's features and generate the teacher's from the rest."""

from typing import Optional

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_choice, check_map, check_number

MASKS = ('channel', 'spatial')


@MODELS.register_module()
class MGDConnector(BaseModule):
    """The generation block of masked generative distillation.

    A 1x1 convolution brings the student to the width of the teacher, where
    they differ; then, in training, random channels or random places of each
    sample are set to zero, without making up for them; then two 3x3
    convolutions with a ReLU between them generate the teacher's features.
    All of it is trained with the student. ``MGDLoss`` compares the result.

    The mask is drawn from torch's default generator of the device, the one
    that the engine seeds and that ``ReseedHook`` makes a function of the
    iteration. In eval mode nothing is masked.

    Reference:
        Yang et al., Masked Generative Distillation, ECCV 2022,
        https://arxiv.org/abs/2205.01529, equations 1 to 3. Published are
        ``mask_on='channel'`` with a ratio of 0.15 for classification, and
        ``'spatial'`` with 0.45 (two-stage) or 0.65 for detection.

    Args:
        in_channels (int): Channels of the student.
        out_channels (int): Channels of the teacher.
        mask_on (str): What is masked at once: a ``'channel'`` at all places,
            or a place (``'spatial'``) in all channels. Defaults to
            ``'channel'``.
        mask_ratio (float): Probability of being masked, in [0, 1). Defaults
            to 0.15.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mask_on: str = 'channel',
        mask_ratio: float = 0.15,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = check_number('in_channels', in_channels, least=1)
        check_number('out_channels', out_channels, least=1)
        self.mask_on = check_choice('mask_on', mask_on, MASKS)
        self.mask_ratio = check_number(
            'mask_ratio', mask_ratio, least=0, below=1
        )
        self.align = nn.Identity()
        if in_channels != out_channels:
            self.align = nn.Conv2d(in_channels, out_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Generate the teacher's feature.

        Args:
            feature (Tensor): Shape ``(N, in_channels, H, W)``.

        Returns:
            Tensor: Shape ``(N, out_channels, H, W)``.

        Raises:
            ValueError: If ``feature`` is no map of that width.
        """
        check_map('feature', feature, self.in_channels)
        feature = self.align(feature)
        if self.training and self.mask_ratio > 0:
            count, channels, height, width = feature.shape
            shape = (count, channels, 1, 1)
            if self.mask_on == 'spatial':
                shape = (count, 1, height, width)
            # Drawn in float32: half precision has too few numbers.
            draw = torch.rand(shape, device=feature.device)
            # Not masked_fill: a NaN of a run that has diverged must be seen.
            feature = feature * (draw >= self.mask_ratio).to(feature.dtype)
        return self.generation(feature)
