"""ShuffleNet: values."""

import torch
from plain_layers import PlainLayers, assert_same, images, randomise, shuffle

from mmkd_plugin.models.backbones import CifarShuffleNetV1


def pool(x):
    """3x3 means with a stride of 2, of which the zeros around are a part."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    return padded.unfold(2, 3, 2).unfold(3, 3, 2).mean(dim=(-2, -1))


def plain_stages(net, x):
    layers = PlainLayers(net)
    x = layers.relu_norm(layers.conv(x, 'conv1'), 'bn1')
    outputs = []
    for stage, blocks in ((1, 4), (2, 8), (3, 4)):
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            groups = 1 if (stage, block) == (1, 0) else 3
            out = layers.conv(x, f'{name}.conv1', groups=groups)
            out = layers.relu_norm(out, f'{name}.bn1')
            out = shuffle(out, groups)
            out = layers.conv(
                out,
                f'{name}.conv2',
                stride=2 if block == 0 else 1,
                groups=out.shape[1],
            )
            out = layers.relu_norm(out, f'{name}.bn2')
            out = layers.conv(out, f'{name}.conv3', groups=3)
            out = layers.norm(out, f'{name}.bn3')
            x = torch.cat((out, pool(x)), 1) if block == 0 else out + x
            x = x.clamp(min=0)
        outputs.append(x)
    return outputs


def test_values(seed):
    net = randomise(CifarShuffleNetV1(out_indices=(0, 1, 2)))
    x = images()
    assert_same(net(x), plain_stages(net, x))


def test_bottleneck_is_a_quarter_of_the_branch():
    net = CifarShuffleNetV1()
    assert net.layer1[0].conv1.weight.shape == (54, 24, 1, 1)
    assert net.layer2[0].conv1.weight.shape == (60, 80, 1, 1)
    assert net.layer2[1].conv1.weight.shape == (120, 160, 1, 1)
