"""The networks that distillation papers measure on at 32x32."""

from .cifar_mobile_net_v2 import CifarMobileNetV2
from .cifar_resnet import CifarResNet
from .cifar_shuffle_net_v1 import CifarShuffleNetV1
from .cifar_shuffle_net_v2 import CifarShuffleNetV2
from .cifar_vgg import CifarVGG
from .cifar_wide_resnet import CifarWideResNet
from .unpooled_resnet import UnpooledResNet

__all__ = [
    'CifarMobileNetV2',
    'CifarResNet',
    'CifarShuffleNetV1',
    'CifarShuffleNetV2',
    'CifarVGG',
    'CifarWideResNet',
    'UnpooledResNet',
]
