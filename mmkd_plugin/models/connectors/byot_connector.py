"""An exit of a network: a bottleneck and a classifier behind a stage."""

from typing import Optional

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_count, check_map


@MODELS.register_module()
class BYOTConnector(BaseModule):
    r"""A classifier that makes an exit of any stage of a network.

    The map of the stage is narrowed to a quarter of the width of the deepest
    stage (1x1 convolution), halved in height and width as often as the
    network does from there on (3x3 convolutions with a stride of 2; one
    without where it does not), and widened to the width of the deepest stage
    (1x1 convolution), each with batch normalisation and ReLU. The mean over
    its places is the feature of the exit, and a linear layer gives its
    logits. All of it is trained with the student, and left behind when that
    is exported.

    It returns both, which ``connector_idx`` tells apart: 0 is the feature,
    to compare with the input of the network's own classifier, 1 the logits.
    One exit of ResNet-18 for CIFAR::

        student_recorders=dict(
            stage1=dict(type='ModuleOutputs', source='backbone.layer1'),
            feature=dict(type='ModuleInputs', source='head.fc'),
            logits=dict(type='ModuleOutputs', source='head.fc')),
        connectors=dict(
            exit1=dict(type='BYOTConnector', in_channels=64,
                       out_channels=512, num_classes=100, num_halvings=3)),
        distill_losses=dict(
            loss_label1=dict(type='CrossEntropyLoss', loss_weight=0.7),
            loss_soft1=dict(type='KLDivergence', tau=3.0, loss_weight=0.3),
            loss_feature1=dict(type='MSELoss', loss_weight=0.066)),
        loss_forward_mappings=dict(
            loss_label1=dict(
                cls_score=dict(from_student=True, recorder='stage1',
                               connector='exit1', connector_idx=1),
                label=dict(from_batch='gt_label')),
            loss_soft1=dict(
                preds_S=dict(from_student=True, recorder='stage1',
                             connector='exit1', connector_idx=1),
                preds_T=dict(from_student=True, recorder='logits')),
            loss_feature1=dict(
                preds_S=dict(from_student=True, recorder='stage1',
                             connector='exit1', connector_idx=0),
                preds_T=dict(from_student=True, recorder='feature',
                             data_idx=0)))

    The exit runs once a step, however many losses read it.

    Reference:
        Zhang et al., Be Your Own Teacher: Improve the Performance of
        Convolutional Neural Networks via Self Distillation, ICCV 2019,
        https://arxiv.org/abs/1905.08094: a bottleneck and a fully connected
        layer behind each stage but the deepest. The paper gives neither the
        layers nor the weights of the losses; the layers here are our choice.
        MMRazor's connector of this name has other ones, and the options
        ``in_channel``, ``out_channel`` and ``expansion``.

    Args:
        in_channels (int): Channels of the stage.
        out_channels (int): Channels of the deepest stage, at least 4.
        num_classes (int): Number of classes.
        num_halvings (int): How often height and width are halved from the
            stage to the deepest one; may be 0.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a number is out of its range.

    Examples:
        >>> import torch
        >>> connector = BYOTConnector(
        ...     2, 8, num_classes=3, num_halvings=1)
        >>> feature, logits = connector(torch.zeros(4, 2, 6, 6))
        >>> feature.shape, logits.shape
        (torch.Size([4, 8]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_classes: int,
        num_halvings: int,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = check_count('in_channels', in_channels)
        check_count('out_channels', out_channels, least=4)
        check_count('num_classes', num_classes)
        check_count('num_halvings', num_halvings, least=0)
        narrow = out_channels // 4
        strides = [2] * num_halvings or [1]
        norm = dict(norm_cfg=dict(type='BN'))
        # Each has initialised itself, and is no BaseModule: init_weights()
        # leaves what is in an nn.Sequential alone.
        self.bottleneck = nn.Sequential(
            ConvModule(in_channels, narrow, 1, **norm),
            *(
                ConvModule(narrow, narrow, 3, stride=s, padding=1, **norm)
                for s in strides
            ),
            ConvModule(narrow, out_channels, 1, **norm),
        )
        self.fc = nn.Linear(out_channels, num_classes)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Answer from the map of a stage.

        Args:
            feature (Tensor): Shape ``(N, in_channels, H, W)``.

        Returns:
            tuple[Tensor, Tensor]: The feature, ``(N, out_channels)``, and
            the logits, ``(N, num_classes)``.

        Raises:
            ValueError: If ``feature`` is no map of that width.
        """
        check_map('feature', feature, self.in_channels)
        pooled = self.bottleneck(feature).mean(dim=(2, 3))
        return pooled, self.fc(pooled)
