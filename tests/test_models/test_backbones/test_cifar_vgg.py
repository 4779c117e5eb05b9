"""VGG networks: values and options."""

import pytest
from plain_layers import PlainLayers, assert_same, images, randomise

from mmkd_plugin.models.backbones import CifarVGG


def pool(x):
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cells.amax(dim=(3, 5))


def plain_stages(net, x, pooled_before):
    layers = PlainLayers(net)
    outputs = []
    for stage in range(5):
        if stage in pooled_before:
            x = pool(x)
        index = 0
        while layers.has(f'block{stage}.{index}'):
            x = layers.conv(x, f'block{stage}.{index}')
            x = layers.relu_norm(x, f'block{stage}.{index + 1}')
            index += 3
        outputs.append(x)
    return outputs


@pytest.mark.parametrize(
    ('depth', 'size', 'pooled_before'),
    [
        (8, 32, (1, 2, 3)),
        (13, 32, (1, 2, 3)),
        # As published, one more pooling at this size only.
        (8, 64, (1, 2, 3, 4)),
        (8, 48, (1, 2, 3)),
    ],
)
def test_values(depth, size, pooled_before, seed):
    net = randomise(CifarVGG(depth, out_indices=(0, 1, 2, 3, 4)))
    x = images(size)
    assert_same(net(x), plain_stages(net, x, pooled_before))


def test_convolutions_have_biases_that_start_at_zero(seed):
    net = CifarVGG(8)
    net.init_weights()
    assert net.block4[0].bias.eq(0).all()


def test_wrong_depth():
    with pytest.raises(
        ValueError,
        match=r'depth must be one of \(8, 11, 13, 16, 19\), but got 12',
    ):
        CifarVGG(12)
