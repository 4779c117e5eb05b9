"""ResNets: values, shortcuts and options."""

import pytest
import torch
from plain_layers import PlainLayers, assert_same, images, randomise
from torch import nn

from mmkd_plugin.models.backbones import CifarResNet


def plain_stages(net, x, blocks, pad_channels=None):
    layers = PlainLayers(net)
    x = layers.relu_norm(layers.conv(x, 'conv1'), 'bn1')
    outputs = []
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            out = layers.conv(x, f'{name}.conv1', stride)
            out = layers.relu_norm(out, f'{name}.bn1')
            out = layers.norm(layers.conv(out, f'{name}.conv2'), f'{name}.bn2')
            if layers.has(f'{name}.downsample.0'):
                x = layers.conv(x, f'{name}.downsample.0', stride)
                x = layers.norm(x, f'{name}.downsample.1')
            elif out.shape != x.shape:
                padded = torch.zeros_like(out)
                new = out.shape[1] - x.shape[1]
                padded[:, new // 2 : -new // 2] = x[:, :, ::stride, ::stride]
                x = padded
            x = (x + out).clamp(min=0)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize('shortcut', ['conv', 'pad'])
@pytest.mark.parametrize(('depth', 'width', 'blocks'), [(14, 1, 2), (8, 4, 1)])
def test_values(depth, width, blocks, shortcut, seed):
    net = randomise(CifarResNet(depth, width, shortcut, out_indices=(0, 1, 2)))
    x = images()
    assert_same(net(x), plain_stages(net, x, blocks))


def test_stages_that_keep_the_width_have_no_shortcut():
    assert CifarResNet(20).layer1[0].downsample is None
    # The stem of the wide ones has fewer channels than their first stage.
    assert CifarResNet(8, width=4).layer1[0].downsample is not None


def test_zeroed_branch_is_the_shortcut(seed):
    """What option A makes of a map can be told by hand."""
    net = CifarResNet(8, shortcut='pad').eval()
    nn.init.zeros_(net.layer2[0].bn2.weight)
    x = torch.rand(1, 16, 4, 4)
    out = net.layer2(x)
    assert out.shape == (1, 32, 2, 2)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert out[:, :8].eq(0).all()
    assert out[:, 24:].eq(0).all()


def test_padding_has_no_weights():
    names = dict(CifarResNet(20, shortcut='pad').named_parameters())
    assert not any('downsample' in name for name in names)
    # Published for option A and 10 classes: 0.27 M, 0.85 M.
    count = sum(p.numel() for p in names.values()) + 65 * 10
    assert count == 269722
    net = CifarResNet(56, shortcut='pad')
    assert sum(p.numel() for p in net.parameters()) + 65 * 10 == 853018


def test_wrong_options():
    with pytest.raises(
        ValueError,
        match=r'depth must be one of \(8, 14, 20, 32, 44, 56, 110\), '
        'but got 18',
    ):
        CifarResNet(18)
    with pytest.raises(ValueError, match=r'width .* \(1, 4\), but got 2'):
        CifarResNet(8, width=2)
    with pytest.raises(
        ValueError, match=r"shortcut .* \('conv', 'pad'\), but got 'A'"
    ):
        CifarResNet(8, shortcut='A')
