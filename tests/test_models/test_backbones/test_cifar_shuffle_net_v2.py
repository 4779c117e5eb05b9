"""ShuffleNetV2: values."""

import torch
from plain_layers import PlainLayers, assert_same, images, randomise, shuffle

from mmkd_plugin.models.backbones import CifarShuffleNetV2


def plain_stages(net, x):
    layers = PlainLayers(net)

    def pointwise(x, name):
        return layers.relu_norm(layers.conv(x, f'{name}.conv'), f'{name}.bn')

    def depthwise(x, name, stride):
        out = layers.conv(x, f'{name}.conv', stride, groups=x.shape[1])
        return layers.norm(out, f'{name}.bn')

    x = layers.relu_norm(layers.conv(x, 'conv1'), 'bn1')
    outputs = []
    for stage, blocks in ((1, 4), (2, 8), (3, 4)):
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            if block == 0:
                stride, left, right = 2, x, x
                left = depthwise(left, f'{name}.branch1.0', stride)
                left = pointwise(left, f'{name}.branch1.1')
            else:
                stride, (left, right) = 1, x.chunk(2, dim=1)
            right = pointwise(right, f'{name}.branch2.0')
            right = depthwise(right, f'{name}.branch2.1', stride)
            right = pointwise(right, f'{name}.branch2.2')
            x = shuffle(torch.cat((left, right), 1), 2)
        outputs.append(x)
    return [*outputs, layers.relu_norm(layers.conv(x, 'conv2'), 'bn2')]


def test_values(seed):
    net = randomise(CifarShuffleNetV2(out_indices=(0, 1, 2, 3)))
    x = images()
    assert_same(net(x), plain_stages(net, x))
