"""The stems for images of 224x224."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from plain_layers import PlainLayers, assert_same, images, randomise
from torch import nn
from torch.nn import functional

import mmkd_plugin  # noqa: F401

# Backbone with the stem of CIFAR, channels of the stem, side of its kernel,
# channels and sides of the maps of 224x224 with the large stem.
NETWORKS = {
    'r20': (
        dict(type='CifarResNet', depth=20),
        16,
        3,
        [(16, 112), (32, 56), (64, 28)],
    ),
    'r32x4': (
        dict(type='CifarResNet', depth=32, width=4),
        32,
        3,
        [(64, 112), (128, 56), (256, 28)],
    ),
    'mv2': (
        dict(type='CifarMobileNetV2'),
        16,
        3,
        [
            (8, 56),
            (12, 56),
            (16, 28),
            (32, 14),
            (48, 14),
            (80, 7),
            (160, 7),
            (1280, 7),
        ],
    ),
    'shuv1': (
        dict(type='CifarShuffleNetV1'),
        24,
        1,
        [(240, 56), (480, 28), (960, 14)],
    ),
    'r50': (
        dict(type='mmpretrain.ResNet_CIFAR', depth=50),
        64,
        3,
        [(256, 112), (512, 56), (1024, 28), (2048, 14)],
    ),
}


def build(name, stem='large', **kwargs):
    options = dict(NETWORKS[name][0], **kwargs)
    if name != 'r50':
        options.update(stem=stem)
    elif stem == 'large':
        options.update(type='UnpooledResNet')
    return MODELS.build(options)


@pytest.fixture(scope='module', params=NETWORKS)
def network(request):
    """Name, and the network with the large stem."""
    stages = len(NETWORKS[request.param][3])
    torch.manual_seed(1)
    net = build(request.param, out_indices=tuple(range(stages)))
    net.eval()
    return request.param, net


@pytest.fixture(scope='module')
def cifar(network):
    """The same network with the stem of CIFAR."""
    net = build(network[0], 'cifar')
    net.eval()
    return net


def test_maps(network):
    name, net = network
    # Shapes alone: the device computes nothing.
    state = {k: v.to('meta') for k, v in net.state_dict().items()}
    x = torch.empty(2, 3, 224, 224, device='meta')
    outputs = torch.func.functional_call(net, state, x)
    assert [tuple(output.shape) for output in outputs] == [
        (2, channels, side, side) for channels, side in NETWORKS[name][3]
    ]


def test_only_the_first_weight_differs(network, cifar):
    name, net = network
    _, channels, side, _ = NETWORKS[name]
    large = {k: v.shape for k, v in net.state_dict().items()}
    small = {k: v.shape for k, v in cifar.state_dict().items()}
    assert list(large) == list(small)
    assert {k for k in large if large[k] != small[k]} == {'conv1.weight'}
    assert small['conv1.weight'] == (channels, 3, side, side)
    assert large['conv1.weight'] == (channels, 3, 7, 7)
    counts = [sum(p.numel() for p in n.parameters()) for n in (net, cifar)]
    assert counts[0] - counts[1] == 3 * channels * (49 - side**2)


@torch.no_grad()
def test_stem(network, seed):
    """What the first stage gets, by products of patches and kernels."""
    name, net = network[0], copy.deepcopy(network[1])
    randomise(net)
    found = []
    net.layer1.register_forward_pre_hook(
        lambda module, args: found.append(args[0].clone())
    )
    # Odd, so that a window is cut at the right and at the bottom.
    x = images(37)
    net(x)

    patches = functional.pad(x, (3, 3, 3, 3)).unfold(2, 7, 2).unfold(3, 7, 2)
    expected = torch.einsum('bcijkl,ockl->boij', patches, net.conv1.weight)
    expected = PlainLayers(net).relu_norm(expected, 'bn1')
    assert expected.shape[-2:] == (19, 19)
    if name == 'mv2':
        expected = expected.unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1))
        assert expected.shape[-2:] == (9, 9)
    assert_same(found, [expected])


@torch.no_grad()
def test_the_rest_is_the_network_of_cifar(network, cifar, seed):
    nets = copy.deepcopy([network[1], cifar])
    for net in nets:
        randomise(net)
    large, small = nets
    state = large.state_dict()
    state.pop('conv1.weight')
    missing, unexpected = small.load_state_dict(state, strict=False)
    assert missing == ['conv1.weight'] and not unexpected
    small.out_indices = large.out_indices

    for net in nets:
        net.conv1 = net.bn1 = nn.Identity()
    large.maxpool = nn.Identity()
    channels = NETWORKS[network[0]][1]
    x = torch.rand(2, channels, 16, 16, dtype=torch.float64)
    assert_same(large(x.clone()), small(x.clone()))


@pytest.mark.parametrize('name', [n for n in NETWORKS if n != 'r50'])
@pytest.mark.parametrize('wrong', ['imagenet', 'Large', None, 7])
def test_wrong_stem(name, wrong):
    with pytest.raises(
        ValueError, match=r"stem must be one of \('cifar', 'large'\), but got"
    ) as info:
        build(name, wrong)
    assert repr(wrong) in str(info.value)


@torch.no_grad()
def test_unpooled_resnet_is_resnet_but_for_the_pooling(seed):
    pooled, unpooled = (
        MODELS.build(dict(type=name, depth=18, out_indices=(0, 3)))
        for name in ('mmpretrain.ResNet', 'UnpooledResNet')
    )
    for net in (pooled, unpooled):
        randomise(net)
    unpooled.load_state_dict(pooled.state_dict())
    x = images(64)
    assert [m.shape[-1] for m in pooled(x)] == [16, 2]
    assert [m.shape[-1] for m in unpooled(x)] == [32, 4]
    unpooled.maxpool = pooled.maxpool
    assert_same(unpooled(x), pooled(x))
