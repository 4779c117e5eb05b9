"""Wide residual networks: values and options."""

import pytest
from plain_layers import PlainLayers, assert_same, images, randomise

from mmkd_plugin.models.backbones import CifarWideResNet


def plain_stages(net, x, blocks):
    layers = PlainLayers(net)
    x = layers.conv(x, 'conv1')
    outputs = []
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            active = layers.relu_norm(x, f'{name}.bn1')
            out = layers.conv(active, f'{name}.conv1', stride)
            out = layers.relu_norm(out, f'{name}.bn2')
            out = layers.conv(out, f'{name}.conv2')
            if layers.has(f'{name}.downsample'):
                x = layers.conv(active, f'{name}.downsample', stride)
            x = x + out
        outputs.append(x)
    outputs[-1] = layers.relu_norm(x, 'bn1')
    return outputs


@pytest.mark.parametrize('widen_factor', [1, 2])
def test_values(widen_factor, seed):
    net = randomise(CifarWideResNet(16, widen_factor, out_indices=(0, 1, 2)))
    x = images()
    assert_same(net(x), plain_stages(net, x, blocks=2))


def test_only_the_last_map_is_rectified(seed):
    net = randomise(CifarWideResNet(16, 2, out_indices=(0, 1, 2)))
    first, second, last = net(images())
    assert first.min() < 0
    assert second.min() < 0
    assert last.min() == 0


def test_shortcut_only_where_the_width_changes():
    narrow, wide = CifarWideResNet(16, 1), CifarWideResNet(16, 2)
    assert narrow.layer1[0].downsample is None
    assert wide.layer1[0].downsample.weight.shape == (32, 16, 1, 1)
    assert wide.layer1[1].downsample is None


def test_wrong_options():
    with pytest.raises(
        ValueError,
        match=r'depth must be one of \(10, 16, 22, 28, 34, 40\), but got 18',
    ):
        CifarWideResNet(18)
    with pytest.raises(
        ValueError, match=r'widen_factor .* \(1, 2, 4, 8, 10\), but got 0'
    ):
        CifarWideResNet(16, widen_factor=0)
