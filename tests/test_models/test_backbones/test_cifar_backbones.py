"""What holds for every CIFAR network."""

import copy
import math
import pickle

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

import mmkd_plugin  # noqa: F401

# Backbone, parameters with a linear layer of 100 classes, normalisations,
# maps of the stages at 32x32. Counted on the definitions of RepDistiller
# (github.com/HobbitLong/RepDistiller, models/, commits eedab9d and b13aecc);
# those of mdistiller are the same.
NETWORKS = {
    'r8': (dict(type='CifarResNet', depth=8), 83892, 9, 'narrow'),
    'r14': (dict(type='CifarResNet', depth=14), 181108, 15, 'narrow'),
    'r20': (dict(type='CifarResNet', depth=20), 278324, 21, 'narrow'),
    'r32': (dict(type='CifarResNet', depth=32), 472756, 33, 'narrow'),
    'r44': (dict(type='CifarResNet', depth=44), 667188, 45, 'narrow'),
    'r56': (dict(type='CifarResNet', depth=56), 861620, 57, 'narrow'),
    'r110': (dict(type='CifarResNet', depth=110), 1736564, 111, 'narrow'),
    'r8x4': (
        dict(type='CifarResNet', depth=8, width=4),
        1233540,
        10,
        'wide',
    ),
    'r32x4': (
        dict(type='CifarResNet', depth=32, width=4),
        7433860,
        34,
        'wide',
    ),
    'wrn16_1': (
        dict(type='CifarWideResNet', depth=16),
        180916,
        13,
        'narrow',
    ),
    'wrn16_2': (
        dict(type='CifarWideResNet', depth=16, widen_factor=2),
        703284,
        13,
        'double',
    ),
    'wrn40_1': (
        dict(type='CifarWideResNet', depth=40),
        569780,
        37,
        'narrow',
    ),
    'wrn40_2': (
        dict(type='CifarWideResNet', depth=40, widen_factor=2),
        2255156,
        37,
        'double',
    ),
    'vgg8': (dict(type='CifarVGG', depth=8), 3965028, 5, 'vgg'),
    'vgg11': (dict(type='CifarVGG', depth=11), 9277284, 8, 'vgg'),
    'vgg13': (dict(type='CifarVGG', depth=13), 9462180, 10, 'vgg'),
    'vgg16': (dict(type='CifarVGG', depth=16), 14774436, 13, 'vgg'),
    'vgg19': (dict(type='CifarVGG', depth=19), 20086692, 16, 'vgg'),
    'mv2': (dict(type='CifarMobileNetV2'), 812836, 53, 'mobile'),
    'shuv1': (dict(type='CifarShuffleNetV1'), 949258, 49, 'shuffle1'),
    'shuv2': (dict(type='CifarShuffleNetV2'), 1355528, 56, 'shuffle2'),
    # mmpretrain has this one.
    'r50': (
        dict(type='ResNet_CIFAR', depth=50, zero_init_residual=False),
        23705252,
        53,
        'r50',
    ),
}
# Channels and sides of the maps.
MAPS = {
    'narrow': [(16, 32), (32, 16), (64, 8)],
    'double': [(32, 32), (64, 16), (128, 8)],
    'wide': [(64, 32), (128, 16), (256, 8)],
    'vgg': [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    'mobile': [
        (8, 16),
        (12, 16),
        (16, 8),
        (32, 4),
        (48, 4),
        (80, 2),
        (160, 2),
        (1280, 2),
    ],
    'shuffle1': [(240, 16), (480, 8), (960, 4)],
    'shuffle2': [(116, 16), (232, 8), (464, 4), (1024, 4)],
    'r50': [(256, 32), (512, 16), (1024, 8), (2048, 4)],
}
OURS = [name for name in NETWORKS if name != 'r50']
# One of each class.
FAMILIES = ['r20', 'wrn16_2', 'vgg8', 'mv2', 'shuv1', 'shuv2']


def build(name, **kwargs):
    """An ImageClassifier as a config of mmpretrain's builds it."""
    backbone, _, _, maps = NETWORKS[name]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(backbone, **kwargs),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead',
                    num_classes=100,
                    in_channels=MAPS[maps][-1][0],
                ),
            )
        )
    return model


@pytest.fixture(scope='module', params=NETWORKS)
def network(request):
    """Name and classifier, built once for the tests of this module."""
    torch.manual_seed(1)
    return request.param, build(request.param)


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_parameters_and_normalisations(network):
    name, model = network
    _, parameters, normalisations, _ = NETWORKS[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(norms(model)) == normalisations


def test_training_step_and_taps(network, seed):
    """All weights get gradients; a hook sees what a normalisation sees."""
    name, model = network
    model = copy.deepcopy(model)
    model.train()
    inputs = {}

    def tap(module, args):
        inputs[module] = args[0]

    handles = [m.register_forward_pre_hook(tap) for m in norms(model)]
    samples = [DataSample().set_gt_label(label) for label in (3, 97)]
    losses = model(torch.randn(2, 3, 32, 32), samples, mode='loss')
    losses['loss'].backward()
    for handle in handles:
        handle.remove()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # A bias before a normalisation has no effect, only noise.
        if parameter.ndim > 1:
            assert not torch.equal(parameter, before[key]), key

    assert len(inputs) == NETWORKS[name][2]
    for module, x in inputs.items():
        assert x.requires_grad
        # Its first batch: momentum 0.1, from a mean of 0 and a variance of
        # 1. A tensor that was changed later would not give this mean.
        assert torch.allclose(
            module.running_mean, 0.1 * x.mean((0, 2, 3)), atol=1e-5
        )
        variance = x.var((0, 2, 3))
        assert torch.allclose(
            module.running_var, 0.9 + 0.1 * variance, rtol=1e-4
        )


@torch.no_grad()
def test_maps_and_logits(network, seed):
    name, model = network
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    stages = MAPS[NETWORKS[name][3]]
    maps = model.backbone(x)
    assert len(maps) == 1
    channels, side = stages[-1]
    assert maps[0].shape == (2, channels, side, side)
    assert maps[0].min() == 0
    assert maps[0].max() > 0
    fc = model.head.fc
    logits = maps[0].mean((2, 3)) @ fc.weight.T + fc.bias
    assert torch.allclose(model(x, mode='tensor'), logits, atol=1e-5)
    predicted = torch.stack([p.pred_score for p in model(x, mode='predict')])
    assert torch.allclose(predicted, logits.softmax(1), atol=1e-6)

    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)
    other = fast.backbone(x.to(memory_format=torch.channels_last))[0]
    assert torch.allclose(other, maps[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['r8x4', *FAMILIES])
@torch.no_grad()
def test_out_indices(name, seed):
    stages = MAPS[NETWORKS[name][3]]
    everything = tuple(range(len(stages)))
    model = build(name, out_indices=list(everything)).eval()
    x = torch.randn(2, 3, 32, 32)
    maps = model.backbone(x)
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, side, side) for channels, side in stages
    ]
    model.backbone.out_indices = (0, everything[-1])
    some = model.backbone(x)
    assert len(some) == 2
    assert torch.equal(some[0], maps[0])
    assert torch.equal(some[1], maps[-1])


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize(
    'wrong', [(), (-1,), (9,), (1, 0), (1, 1), 2, 'last', (0.0,), (True,)]
)
def test_wrong_out_indices(name, wrong):
    last = len(MAPS[NETWORKS[name][3]]) - 1
    with pytest.raises(ValueError, match=rf'0 to {last}, .* but got') as info:
        build(name, out_indices=wrong)
    assert repr(wrong) in str(info.value)
    assert NETWORKS[name][0]['type'] in str(info.value)


@pytest.mark.parametrize('name', FAMILIES)
def test_modes_can_be_chained(name):
    backbone = build(name).backbone
    assert backbone.eval() is backbone
    assert not any(m.training for m in backbone.modules())
    assert backbone.train() is backbone
    assert all(m.training for m in backbone.modules())


@pytest.mark.parametrize('name', FAMILIES)
@torch.no_grad()
def test_deepcopy_and_pickle(name, seed):
    backbone = build(name).backbone.eval()
    x = torch.randn(2, 3, 32, 32)
    for clone in (
        copy.deepcopy(backbone),
        pickle.loads(pickle.dumps(backbone)),
    ):
        assert torch.equal(clone(x)[0], backbone(x)[0])


@pytest.mark.parametrize('name', [*FAMILIES, 'r50'])
def test_published_initialisation(name, seed):
    """Of the whole classifier, as the engine calls it."""
    model = build(name)
    model.init_weights()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 3000:
            weight = module.weight
            area = math.prod(module.kernel_size)
            if name.startswith('shuv'):
                bound = (weight.shape[1] * area) ** -0.5
                assert 0.99 * bound < weight.abs().max() <= bound
                deviation = bound / 3**0.5
            else:
                deviation = (2 / (area * weight.shape[0])) ** 0.5
            assert weight.std().item() == pytest.approx(deviation, rel=0.06)


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
def test_builds_under_any_default_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        for name in FAMILIES:
            config = NETWORKS[name][0]
            backbone = MODELS.build(config)
            wanted = config['type'].rsplit('.', 1)[-1]
            assert type(backbone).__name__ == wanted
