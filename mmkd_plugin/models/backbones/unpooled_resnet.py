"""ResNet whose stem does not pool."""

from mmengine.registry import MODELS
from mmpretrain.models.backbones import ResNet
from torch import nn


@MODELS.register_module()
class UnpooledResNet(ResNet):
    """mmpretrain's ResNet without the max pooling of its stem.

    It is the ResNet-50 of the CIFAR benchmarks, mmpretrain's
    ``ResNet_CIFAR``, for images of 224x224: the first convolution is of 7x7
    with a stride of 2, and the maps are 112x112, 56x56, 28x28 and 14x14,
    twice as wide and high as those of ``ResNet``. All arguments are those of
    ``ResNet``, and so are the names and shapes of the weights; those of a
    trained ``ResNet`` load, but they are of another network.

    Reference:
        The CUB-200 experiments of Wei et al., Scaled Decoupled
        Distillation, CVPR 2024, https://arxiv.org/abs/2403.13512, as in
        ``train_origin.py`` of
        https://github.com/shicaiwei123/SDD-CVPR2024 (commit 43814ca). There
        the last normalisation of a block starts at 1, which is
        ``zero_init_residual=False``.

    Example:
        >>> import torch
        >>> UnpooledResNet(18)(torch.rand(2, 3, 64, 64))[0].shape
        torch.Size([2, 512, 4, 4])
    """

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.maxpool = nn.Identity()
