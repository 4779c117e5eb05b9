import pytest
import torch

from mmkd_plugin.models import (
    BYOTConnector,
    ConvConnector,
    LinearConnector,
    MGDConnector,
    ParaphraserConnector,
    TranslatorConnector,
)


@pytest.mark.parametrize(
    ('connector', 'layer'),
    [
        (lambda **k: ConvConnector(2, 3, **k), 'Conv2d'),
        (lambda **k: LinearConnector(2, 3, **k), 'Linear'),
    ],
)
def test_init_cfg_takes_effect(connector, layer):
    built = connector(
        init_cfg=dict(type='Constant', layer=layer, val=3.0, bias=5.0)
    )
    built.init_weights()
    weights = dict(built.named_parameters())
    assert {w.unique().item() for w in weights.values()} == {3.0, 5.0}


def test_conv_of_more_than_one_pixel_keeps_the_size():
    feature = torch.zeros(1, 2, 7, 9)
    for kernel_size in (1, 3, 5):
        out = ConvConnector(2, 3, kernel_size=kernel_size)(feature)
        assert out.shape == (1, 3, 7, 9)
    assert ConvConnector(2, 3, stride=2)(feature).shape == (1, 3, 4, 5)


def test_norm_takes_the_place_of_the_bias():
    assert ConvConnector(2, 3).conv.conv.bias is not None
    connector = ConvConnector(2, 3, norm_cfg=dict(type='BN'))
    assert connector.conv.conv.bias is None
    assert not any('activate' in n for n, _ in connector.named_modules())


@pytest.mark.parametrize(
    'connector',
    [
        BYOTConnector(3, 4, num_classes=2, num_halvings=0),
        ConvConnector(3, 4),
        MGDConnector(3, 4),
        ParaphraserConnector(3, 2),
        TranslatorConnector(3, 2),
    ],
    ids=lambda connector: type(connector).__name__,
)
def test_a_map_of_another_width(connector):
    with pytest.raises(
        ValueError, match=r'feature must .*\(N, 3, H, W\).* \(2, 4, 5, 5\)$'
    ):
        connector(torch.zeros(2, 4, 5, 5))
