"""Tests of layers as functions."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from toys import architecture, teacher

from mmkd_plugin.explain import LayerFeature, cell_energy

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_feature_is_the_module_s_output():
    net = teacher()
    feature = LayerFeature(net, 'backbone.layer1')
    wanted = net.backbone(IMAGES)[0]
    torch.testing.assert_close(feature(IMAGES), wanted, rtol=0, atol=0)
    # The network is in eval mode, for good.
    assert not net.backbone.bn1.training
    assert not any(p.requires_grad for p in net.parameters())


def test_before_relu_in_place():
    net = teacher()
    before = LayerFeature(net, 'backbone.bn1')(IMAGES)
    net.eval()
    wanted = net.backbone.bn1(net.backbone.conv1(IMAGES))
    torch.testing.assert_close(before, wanted, rtol=0, atol=0)
    assert (before < 0).any()


def test_calls_of_a_module_that_is_called_twice():
    net = teacher()
    first = LayerFeature(net, 'backbone.layer1.0.relu', record_idx=0)(IMAGES)
    net = teacher()
    second = LayerFeature(net, 'backbone.layer1.0.relu', record_idx=1)(IMAGES)
    net.eval()
    block = net.backbone.layer1[0]
    image = net.backbone.relu(net.backbone.norm1(net.backbone.conv1(IMAGES)))
    torch.testing.assert_close(second, block(image), rtol=0, atol=0)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match=r'2 record.*record_idx=2'):
        LayerFeature(net, 'backbone.layer1.0.relu', record_idx=2)(IMAGES)


def test_pass_ends_at_the_layer():
    net = teacher()
    feature = LayerFeature(net, 'backbone.conv1')

    def fail(*args):
        raise AssertionError('called')

    net.head.fc.register_forward_hook(fail)
    feature(IMAGES)
    # The model itself is as before.
    with pytest.raises(AssertionError, match='called'):
        net(IMAGES)


def test_tuple_needs_data_idx():
    net = teacher()
    with pytest.raises(ValueError, match=r"'backbone'.*tuple.*one of \[0\]"):
        LayerFeature(net, 'backbone')(IMAGES)
    found = LayerFeature(net, 'backbone', data_idx=0)(IMAGES)
    torch.testing.assert_close(found, net.backbone(IMAGES)[0])
    with pytest.raises(ValueError, match='no data_idx=1'):
        LayerFeature(net, 'backbone', data_idx=1)(IMAGES)


def test_unknown_layer_names_the_nearest():
    with pytest.raises(ValueError, match=r'layer9.*nearest: backbone.layer1'):
        LayerFeature(teacher(), 'backbone.layer9')


@pytest.mark.parametrize(
    ('backbone', 'layer'),
    [
        (dict(type='VGG', depth=11, num_classes=5), 'backbone.features.5'),
        (dict(type='MobileNetV2', widen_factor=0.1), 'backbone.layer1'),
        (
            dict(
                type='VisionTransformer',
                arch=dict(
                    embed_dims=12,
                    num_layers=1,
                    num_heads=2,
                    feedforward_channels=12,
                ),
                img_size=32,
                patch_size=8,
            ),
            'backbone.layers.0',
        ),
    ],
)
def test_layers_of_other_classifiers_have_energy(backbone, layer):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    net = MODELS.build(dict(type='ImageClassifier', backbone=backbone))
    images = torch.randn(2, 3, 32, 32)
    energy = cell_energy(
        LayerFeature(net, layer), images, grid=(4, 4), probes=4
    )
    assert (energy.sum((1, 2)) > 0).all()


def test_head_is_a_layer():
    init_default_scope('mmpretrain')
    net = MODELS.build(architecture())
    logits = LayerFeature(net, 'head.fc')(IMAGES)
    torch.testing.assert_close(logits, net(IMAGES, mode='tensor'))
