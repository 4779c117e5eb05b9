"""MobileNetV2: values and options."""

import pytest
from plain_layers import PlainLayers, assert_same, images, randomise

from mmkd_plugin.models.backbones import CifarMobileNetV2

# Blocks and stride of the stages.
STAGES = ((1, 1), (2, 1), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))


def plain_stages(net, x):
    layers = PlainLayers(net)

    def conv(x, name, **kwargs):
        return layers.norm(
            layers.conv(x, f'{name}.conv', **kwargs), f'{name}.bn'
        )

    x = layers.relu_norm(layers.conv(x, 'conv1', stride=2), 'bn1')
    outputs = []
    for stage, (blocks, first_stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            stride = first_stride if block == 0 else 1
            out = conv(x, f'{name}.expand_conv').clamp(min=0)
            out = conv(
                out,
                f'{name}.depthwise_conv',
                stride=stride,
                groups=out.shape[1],
            ).clamp(min=0)
            out = conv(out, f'{name}.linear_conv')
            x = x + out if out.shape == x.shape else out
        outputs.append(x)
    return [*outputs, layers.relu_norm(layers.conv(x, 'conv2'), 'bn2')]


def test_values(seed):
    net = randomise(CifarMobileNetV2(out_indices=range(8)))
    x = images()
    outputs = net(x)
    assert_same(outputs, plain_stages(net, x))
    # Linear bottlenecks: only the last map is rectified.
    assert [output.min() < 0 for output in outputs] == [True] * 7 + [False]


def test_first_block_expands_by_a_factor_of_one():
    block = CifarMobileNetV2().layer1[0]
    assert block.expand_conv.conv.weight.shape == (16, 16, 1, 1)
    # Not more than once: the second stage has mmpretrain's.
    names = [n for n, _ in CifarMobileNetV2().layer2[0].named_children()]
    assert names.count('expand_conv') == 1


@pytest.mark.parametrize(
    ('width_mult', 'channels'),
    [(0.5, (8, 160, 1280)), (0.35, (5, 112, 1280)), (1.5, (24, 480, 1920))],
)
def test_widths_are_rounded_down(width_mult, channels, seed):
    net = CifarMobileNetV2(width_mult, out_indices=(0, 6, 7))
    outputs = net(images().float())
    assert tuple(output.shape[1] for output in outputs) == channels


@pytest.mark.parametrize('width_mult', [0, -1, 0.01, float('nan'), '0.5'])
def test_wrong_width(width_mult):
    with pytest.raises(ValueError, match=r'width_mult must be .*>= 0\.0625'):
        CifarMobileNetV2(width_mult)
