import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.testing import assert_close

from mmkd_plugin.models import PoolConnector, SimKDNeck


def normed(layer, feature, weight, padding):
    """Convolve, normalise with the running statistics, rectify."""
    out = nn.functional.conv2d(feature, weight, padding=padding)
    mean, var = (
        v.view(1, -1, 1, 1) for v in (layer.running_mean, layer.running_var)
    )
    scale, shift = (v.view(1, -1, 1, 1) for v in (layer.weight, layer.bias))
    out = (out - mean) / (var + 1e-5).sqrt() * scale + shift
    return out.clamp(min=0)


def drawn(neck):
    """Give the BN layers statistics that are not those of the start."""
    for name, value in neck.state_dict().items():
        if value.is_floating_point() and '.0.' not in name:
            value.uniform_(0.5, 1.5)
    return neck.double().eval()


def test_projects_the_last_map_and_pools_it(seed):
    neck = drawn(SimKDNeck(3, 8))
    maps = torch.randn(2, 5, 6, 6), torch.randn(2, 3, 4, 2)
    maps = tuple(m.double() for m in maps)
    layers = list(neck.projector)
    assert [layer.weight.shape for layer in layers[::3]] == [
        (4, 3, 1, 1),
        (4, 4, 3, 3),
        (8, 4, 1, 1),
    ]
    feature = maps[-1]
    for conv, norm, padding in zip(
        layers[::3], layers[1::3], (0, 1, 0), strict=True
    ):
        assert conv.bias is None
        feature = normed(norm, feature, conv.weight, padding)
    seen = []
    neck.projector.register_forward_hook(lambda *call: seen.append(call[2]))
    (out,) = neck(maps)
    assert_close(seen[0], feature)
    assert_close(out, feature.mean((2, 3)))


def test_factor_narrows_the_bottleneck():
    neck = SimKDNeck(3, 9, factor=4)
    assert neck.projector[0].out_channels == 2
    assert neck.projector[3].out_channels == 2
    assert SimKDNeck(3, 9, factor=1).projector[0].out_channels == 9


@pytest.mark.parametrize(
    ('map_size', 'seen'), [(2, (2, 2)), ((3, 8), (3, 5)), (9, (6, 5))]
)
def test_larger_maps_are_averaged_to_the_teachers(map_size, seen, seed):
    neck = drawn(SimKDNeck(3, 4, map_size=map_size))
    plain = drawn(SimKDNeck(3, 4))
    plain.load_state_dict(neck.state_dict())
    feature = torch.randn(2, 3, 6, 5).double()
    shapes = []
    neck.projector.register_forward_hook(
        lambda *call: shapes.append(tuple(call[2].shape[2:]))
    )
    (out,) = neck((feature,))
    assert shapes == [seen]
    (expected,) = plain((PoolConnector(size=seen)(feature),))
    assert_close(out, expected)


def test_it_is_trained_as_a_whole(seed):
    neck = SimKDNeck(3, 4)
    (out,) = neck((torch.randn(4, 3, 2, 2),))
    out.square().sum().backward()
    assert len(list(neck.parameters())) == 9
    for name, parameter in neck.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_init_cfg_takes_effect():
    neck = SimKDNeck(
        2, 4, init_cfg=dict(type='Constant', layer='Conv2d', val=3.0)
    )
    neck.init_weights()
    for conv in neck.projector[::3]:
        assert (conv.weight == 3).all()


@pytest.mark.parametrize('scope', [None, 'mmpretrain'])
def test_bare_name_in_any_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        neck = MODELS.build(
            dict(type='SimKDNeck', in_channels=3, out_channels=4)
        )
    assert type(neck) is SimKDNeck


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(in_channels=0), 'in_channels must .* got 0'),
        (dict(out_channels=2.5), r'out_channels must .* got 2\.5'),
        (dict(factor=0), 'factor must .* got 0'),
        (dict(factor=5), 'factor must leave .* channel of 4, but got 5'),
        (dict(map_size=(1, 2, 3)), r'size must .* got \(1, 2, 3\)'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SimKDNeck(**{'in_channels': 3, 'out_channels': 4, **options})


def test_a_map_of_another_width():
    with pytest.raises(
        ValueError,
        match=r'SimKDNeck gets must .*\(N, 3, H, W\).*\(2, 4, 1, 1\)',
    ):
        SimKDNeck(3, 4)((torch.zeros(2, 4, 1, 1),))
