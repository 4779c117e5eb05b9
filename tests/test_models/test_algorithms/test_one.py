"""ONE: branches on shared lower stages, and the mixture they learn from."""

import copy
import importlib.util
import json
import math
import pickle
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import (
    DATASETS,
    MODELS,
    DefaultScope,
    init_default_scope,
)
from mmpretrain.structures import DataSample
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close
from toy_runs import (
    PREPROCESSOR,
    Watcher,
    build_runner,
    leaves,
    loader,
    make_dataset,
)
from toys import CLASSES, architecture

from mmkd_plugin.engine.export import export_student
from mmkd_plugin.models import ONE
from mmkd_plugin.structures import BatchSamples

TOOLS = Path(__file__).resolve().parents[3] / 'tools'
EPOCH = 30


def build(seed=0, student=None, branch_from='backbone.layer2', **options):
    """Build a model whose answers are not flat, in epoch 30 of the ramp."""
    init_default_scope('mmpretrain')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ONE(
            student=student or architecture(stages=2),
            branch_from=branch_from,
            **options,
        )
        for branch in (model.student, *model.branches.values()):
            branch.head.fc.weight.data.normal_()
    model.set_progress(epoch=EPOCH)
    return model


@pytest.fixture
def images(seed):
    return torch.randn(6, 3, 8, 8)


LABELS = torch.arange(6) % CLASSES


def labeled(labels=LABELS):
    return [DataSample().set_gt_label(label) for label in labels.tolist()]


def weights_of(model, number):
    """Get the weights of a branch with the shared ones, as they are."""
    weights = dict(model.student.named_parameters())
    if number:
        weights.update(model.branches[str(number)].named_parameters())
    return weights


def whole_branch(model, number):
    """Build a branch as a network of its own."""
    network = copy.deepcopy(model.student)
    if number:
        network.load_state_dict(
            {
                **network.state_dict(),
                **model.branches[str(number)].state_dict(),
            }
        )
    return network


def softmax(row):
    top = max(row)
    terms = [math.exp(z - top) for z in row]
    return [t / sum(terms) for t in terms]


def entry_of(network, images, path='backbone.layer2'):
    """Get what goes into a module."""
    given = []
    handle = network.get_submodule(path).register_forward_pre_hook(
        lambda module, args: given.append(args[0].detach().clone())
    )
    network(images)
    handle.remove()
    return given[0]


# ---------------------------------------------------------------- values


def shares_by_loops(gate, feature, relu=True):
    """Compute what the gate gives, sample by sample, in training mode."""
    pooled = [
        [sum(map(sum, grid)) / (len(grid) * len(grid[0])) for grid in sample]
        for sample in feature.tolist()
    ]
    weight, bias = gate.fc.weight.tolist(), gate.fc.bias.tolist()
    scores = [
        [
            sum(w * v for w, v in zip(line, vector, strict=True)) + b
            for line, b in zip(weight, bias, strict=True)
        ]
        for vector in pooled
    ]
    for k in range(len(weight)):
        column = [row[k] for row in scores]
        mean = sum(column) / len(column)
        var = sum((v - mean) ** 2 for v in column) / len(column)
        for row in scores:
            row[k] = (row[k] - mean) / math.sqrt(var + gate.bn.eps)
            row[k] = row[k] * gate.bn.weight[k].item() + gate.bn.bias[k].item()
            row[k] = max(row[k], 0.0) if relu else row[k]
    return [softmax(row) for row in scores]


def losses_by_loops(logits, shares, labels, tau=3.0, weight=1.0):
    """Compute the terms of the loss, sample by sample."""
    branches = [z.tolist() for z in logits]
    count, classes = len(shares), len(branches[0][0])
    mixture = [
        [
            sum(g * z[n][c] for g, z in zip(shares[n], branches, strict=True))
            for c in range(classes)
        ]
        for n in range(count)
    ]

    def entropy(rows):
        terms = [
            -math.log(softmax(row)[label])
            for row, label in zip(rows, labels, strict=True)
        ]
        return sum(terms) / count

    def divergence(rows):
        total = 0.0
        for row, target in zip(rows, mixture, strict=True):
            p = softmax([z / tau for z in target])
            q = softmax([z / tau for z in row])
            total += sum(
                a * math.log(a / b) for a, b in zip(p, q, strict=True)
            )
        return weight * tau**2 * total / count

    return {
        'student.loss': entropy(branches[0]),
        **{f'branch{i}.loss': entropy(z) for i, z in enumerate(branches) if i},
        'ensemble.loss': entropy(mixture),
        **{
            f'distill.loss_branch{i}': divergence(z)
            for i, z in enumerate(branches)
        },
    }


RAMP = math.exp(-5 * (1 - EPOCH / 80) ** 2)


@pytest.mark.parametrize(
    'options, expected',
    [
        ({}, dict(weight=RAMP)),
        (dict(gate_relu=False, num_branches=2), dict(weight=RAMP)),
        (
            dict(
                num_branches=4,
                distill_loss=dict(
                    type='KLDivergence', tau=2.0, loss_weight=0.5
                ),
            ),
            dict(tau=2.0, weight=0.5),
        ),
    ],
    ids=['default', 'no_relu', 'other_loss'],
)
def test_values_are_those_of_the_formula(images, options, expected):
    model = build(**options).double()
    # Also a gate whose ReLU and scale do something.
    with torch.no_grad():
        model.gate.bn.weight.copy_(
            torch.linspace(0.5, 2, len(model.gate.bn.weight))
        )
        model.gate.bn.bias.uniform_(-0.5, 0.5)
    images = images.double()
    count = options.get('num_branches', 3)
    logits = [whole_branch(model, i)(images) for i in range(count)]
    feature = entry_of(copy.deepcopy(model.student), images)
    shares = shares_by_loops(
        model.gate, feature, options.get('gate_relu', True)
    )
    assert len({round(share, 6) for row in shares for share in row}) > count
    terms = losses_by_loops(logits, shares, LABELS.tolist(), **expected)
    found = model(images, labeled(), mode='loss')
    assert list(found) == list(terms)
    for name, value in terms.items():
        assert found[name].item() == pytest.approx(value, rel=1e-12), name
        assert value > 1e-3, name


def test_gradients_are_those_of_whole_networks(images):
    """Shared weights have the sum, and no branch one of another's loss."""
    model = build().double()
    images = images.double()
    reference = copy.deepcopy(model)
    sum(model(images, labeled(), mode='loss').values()).backward()

    logits = []
    feature = None
    for number in range(3):
        network = whole_branch(reference, number)
        kept = []
        handle = network.backbone.layer2.register_forward_pre_hook(
            lambda module, args, kept=kept: kept.append(args[0])
        )
        logits.append(
            functional_call(network, weights_of(reference, number), (images,))
        )
        handle.remove()
        feature = kept[0] if feature is None else feature
    gate = reference.gate
    shares = gate.bn(gate.fc(feature.mean((2, 3)))).relu().softmax(1)
    mixture = torch.einsum('nk,knc->nc', shares, torch.stack(logits))
    total = sum(F.cross_entropy(z, LABELS) for z in [*logits, mixture])
    target = (mixture.detach() / 3).log_softmax(1)
    for z in logits:
        total = total + RAMP * 9 * F.kl_div(
            (z / 3).log_softmax(1),
            target,
            reduction='batchmean',
            log_target=True,
        )
    total.backward()
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # The bias of the gate is taken away again by its normalisation.
        if name != 'gate.fc.bias':
            assert parameter.grad.abs().max() > 1e-6, name
        assert_close(
            parameter.grad,
            expected[name].grad,
            rtol=1e-9,
            atol=1e-12,
            msg=lambda text, name=name: f'{name}: {text}',
        )


class Square(nn.Module):
    """A loss of somebody who does not detach."""

    def forward(self, preds_S, preds_T):
        return (preds_S - preds_T).square().mean()


@pytest.mark.parametrize('loss', [None, dict(type=Square)])
def test_the_mixture_learns_nothing_from_the_divergence(images, loss):
    model = build(distill_loss=loss)
    losses = model(images, labeled(), mode='loss')
    sum(v for k, v in losses.items() if k.startswith('distill')).backward()
    assert model.gate.fc.weight.grad is None
    assert model.branches['1'].head.fc.weight.grad.abs().max() > 0


# ----------------------------------------------------------------- trunk


def test_the_shared_part_runs_once(images):
    model = build()
    calls = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(images, labeled(), mode='loss')
    for name in ('conv1', 'bn1', 'layer1', 'layer1.0.conv1', 'layer2'):
        assert calls.count(f'student.backbone.{name}') == 1, name
    for number in (1, 2):
        assert calls.count(f'branches.{number}.backbone.layer2') == 1
        assert calls.count(f'branches.{number}.head.fc') == 1
        # What stands for it there has no weights.
        for name in ('conv1', 'bn1', 'relu', 'layer1'):
            stub = model.get_submodule(f'branches.{number}.backbone.{name}')
            assert not stub.state_dict()
    assert model.student.backbone.bn1.num_batches_tracked == 1
    assert model.branches['2'].backbone.layer2[0].bn1.num_batches_tracked == 1


def test_no_weights_but_those_of_the_branches():
    model = build(num_branches=4)
    student = {name: p.shape for name, p in model.student.state_dict().items()}
    tail = {
        name: shape
        for name, shape in student.items()
        if name.startswith(('backbone.layer2.', 'head.'))
    }
    assert 0 < len(tail) < len(student)
    expected = {f'student.{k}': v for k, v in student.items()}
    for number in (1, 2, 3):
        expected |= {f'branches.{number}.{k}': v for k, v in tail.items()}
    found = {name: p.shape for name, p in model.state_dict().items()}
    gate = {k: found.pop(k) for k in list(found) if k.startswith('gate.')}
    assert found == expected
    assert gate['gate.fc.weight'] == (4, 4)


def test_branches_differ_at_the_start(tmp_path):
    trained = build(seed=9).student
    path = tmp_path / 'trained.pth'
    torch.save(trained.state_dict(), path)
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    config = architecture(stages=2)
    config['init_cfg'] = pretrained
    config['backbone']['init_cfg'] = [
        dict(type='Kaiming', layer='Conv2d'),
        dict(pretrained, prefix='backbone.'),
    ]
    for student in (None, config):
        model = build(student=student)
        for _ in range(2):
            weights = [
                (
                    branch.backbone.layer2[0].conv1.weight,
                    branch.head.fc.weight,
                )
                for branch in (model.student, *model.branches.values())
            ]
            for i in range(3):
                for j in range(i):
                    for one, other in zip(weights[i], weights[j], strict=True):
                        assert not torch.equal(one, other)
            model.init_weights()
    assert_close(
        model.student.state_dict(), trained.state_dict(), rtol=0, atol=0
    )


def classifier(backbone, channels, **options):
    return dict(
        type='ImageClassifier',
        backbone=dict(type=backbone, **options),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=CLASSES, in_channels=channels
        ),
    )


SMALL = dict(stem_channels=4, base_channels=4)
FAMILIES = {
    'CifarResNet': (classifier('CifarResNet', 64, depth=8), 'layer3', 32),
    'CifarResNet.early': (
        classifier('CifarResNet', 64, depth=8),
        'layer2',
        16,
    ),
    'CifarWideResNet': (
        classifier('CifarWideResNet', 64, depth=16),
        'layer3',
        32,
    ),
    'block': (classifier('CifarWideResNet', 64, depth=16), 'layer3.1', 64),
    'CifarVGG': (classifier('CifarVGG', 512, depth=8), 'block3', 256),
    'CifarMobileNetV2': (
        classifier('CifarMobileNetV2', 1280, width_mult=0.25),
        'layer6',
        24,
    ),
    'CifarShuffleNetV1': (classifier('CifarShuffleNetV1', 960), 'layer3', 480),
    'CifarShuffleNetV2': (
        classifier('CifarShuffleNetV2', 1024),
        'layer3',
        232,
    ),
    'ResNet_CIFAR': (
        classifier('ResNet_CIFAR', 128, depth=50, **SMALL),
        'layer4',
        64,
    ),
    'ResNet': (
        classifier('ResNet', 32, depth=18, frozen_stages=1, **SMALL),
        'layer4',
        16,
    ),
    'SEResNet': (
        classifier('SEResNet', 128, depth=50, **SMALL),
        'layer4',
        64,
    ),
    'DenseNet': (
        classifier(
            'DenseNet',
            10,
            arch=dict(growth_rate=4, depths=[1, 1], init_channels=8),
        ),
        'stages.1',
        6,
    ),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_families(name, seed):
    """A branch answers as the whole network with its weights does."""
    student, path, channels = FAMILIES[name]
    path = f'backbone.{path}'
    model = build(student=student, branch_from=path, num_branches=2)
    assert model.gate.fc.in_features == channels
    # Other images than it was looked at with: VGG pools once more at 64.
    images = torch.randn(3, 3, 64, 64)
    for mode in (False, True):
        model.train(mode)
        networks = [whole_branch(model, number) for number in range(2)]
        for network in networks:
            network.train(mode)
        expected = [network(images) for network in networks]
        found, _ = model.logits(images)
        assert_close(found, expected)
        assert not torch.allclose(found[0], found[1], atol=1e-3)
    losses = model(images, labeled(LABELS[:3]), mode='loss')
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key


def test_torchvision(seed):
    student = dict(
        type='TorchvisionClassifier', model_name='squeezenet1_1', num_classes=5
    )
    init_default_scope('mmpretrain')
    model = ONE(
        student=student,
        branch_from='model.features.9',
        num_branches=2,
        input_shape=(3, 64, 64),
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    found, _ = model.logits(images)
    for number in range(2):
        network = whole_branch(model, number).eval()
        assert_close(found[number], network(images))
    # Its keys are torchvision's, here as well.
    assert 'branches.1.features.9.squeeze.weight' in model.state_dict()


def test_tokens(seed):
    config = classifier(
        'MlpMixer',
        8,
        arch=dict(
            embed_dims=8,
            num_layers=2,
            tokens_mlp_dims=8,
            channels_mlp_dims=8,
        ),
        img_size=8,
        patch_size=4,
    )
    config['neck']['dim'] = 1
    model = build(
        student=config,
        branch_from='backbone.layers.1',
        input_shape=(3, 8, 8),
        num_branches=2,
    )
    model.eval()
    images = torch.randn(2, 3, 8, 8)
    expected = [whole_branch(model, number)(images) for number in range(2)]
    assert_close(model.logits(images)[0], expected)
    feature = entry_of(whole_branch(model, 0), images, 'backbone.layers.1')
    assert feature.shape == (2, 4, 8)
    shares = model.gate.fc(feature.mean(1)) / math.sqrt(1 + 1e-5)
    mixture = (
        torch.stack(expected, 2) * shares.relu().softmax(1)[:, None]
    ).sum(2)
    assert_close(model.logits(images)[1], mixture)


# ---------------------------------------------------------------- errors

TRANSFORMER = classifier(
    'VisionTransformer',
    8,
    arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8),
    img_size=32,
)
TRANSFORMER.pop('neck')


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(branch_from='backbone.layr2'),
            r"no module 'backbone\.layr2'; nearest: backbone\.layer2",
        ),
        (dict(branch_from=''), r"'backbone\.layer3', but got ''"),
        (dict(branch_from=None), 'but got None'),
        (
            dict(branch_from='backbone'),
            r"at 'backbone': nothing with weights comes before it; .*"
            r'nearest: .*backbone\.conv1',
        ),
        (
            dict(branch_from='backbone.layer2.0.conv2'),
            'something goes around it, such as the shortcut of a block; take '
            r'a stage that all goes through; nearest: .*backbone\.layer1',
        ),
        (
            dict(branch_from='neck'),
            r"at 'neck': what it takes is no map of features",
        ),
        (
            dict(branch_from='head.loss_module'),
            r"at 'head\.loss_module': it is called 0 times in a pass",
        ),
        (
            dict(
                student=FAMILIES['CifarMobileNetV2'][0],
                branch_from='backbone.relu',
            ),
            r"at 'backbone\.relu': it is called 2 times in a pass",
        ),
        (
            dict(student=TRANSFORMER, branch_from='backbone.layers.1'),
            r"the VisionTransformer around it has parameters .*'cls_token'",
        ),
        (
            dict(input_shape=(1, 8, 8)),
            r'fails on images of the shape \(1, 8, 8\): .*input_shape',
        ),
        (dict(input_shape=8), 'input_shape must be .* but got 8'),
        (dict(input_shape=(3, 8)), r'input_shape must be .* got \(3, 8\)'),
        (dict(num_branches=1), 'num_branches must be .*>= 2, but got 1'),
        (dict(num_branches=2.0), r'num_branches must be .* got 2\.0'),
        (dict(gate_relu=1), 'gate_relu must be True or False, but got 1'),
        (
            dict(predict='mean'),
            r"predict must be one of \('branch', 'ensemble'\), .* got 'mean'",
        ),
        (
            dict(student=nn.Linear(2, 2)),
            'student must be a config, .* but got a Linear',
        ),
        (
            dict(
                student=dict(
                    type='ImageClassifier',
                    backbone=dict(type='ResNet_CIFAR', depth=18),
                )
            ),
            'with a head of mmpretrain, .* got a ImageClassifier without one',
        ),
        (
            dict(distill_loss=dict(type='KLDivergenc')),
            "distill_loss: there is no 'KLDivergenc'",
        ),
        (
            dict(
                distill_loss=dict(
                    type='KLDivergence',
                    loss_weight=dict(type='SigmoidRamp', end=0),
                )
            ),
            'distill_loss: loss_weight: end must be greater .* got 0',
        ),
    ],
)
def test_errors(options, message):
    init_default_scope('mmpretrain')
    given = dict(student=architecture(stages=2), branch_from='backbone.layer2')
    with pytest.raises(ValueError, match=message):
        ONE(**{**given, **options})


def test_a_module_called_before_and_behind():
    class Twice(nn.Module):
        """Has one layer in two places."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.stage = nn.Conv2d(3, 3, 1)
            self.head = nn.Module()
            self.head.loss_module = nn.Module()

        def forward(self, images, mode):
            return self.conv(self.stage(self.conv(images))).mean((2, 3))

    with pytest.raises(
        ValueError, match=r"at 'stage': 'conv' is called before and behind"
    ):
        ONE(student=dict(type=Twice), branch_from='stage')


@pytest.mark.parametrize(
    'samples, message',
    [
        (None, 'no labels'),
        ([DataSample()] * 6, 'no labels'),
        (BatchSamples(torch.arange(6)), 'no labels'),
        (labeled(LABELS + 1), r'must be in \[0, 5\), .* got 5'),
    ],
)
def test_bad_labels(images, samples, message):
    with pytest.raises(ValueError, match=message):
        build()(images, samples, mode='loss')


def test_without_a_runner_and_a_time(images):
    model = build()
    model.set_progress()
    with pytest.raises(RuntimeError, match=r'model\.set_progress where'):
        model(images, labeled(), mode='loss')
    # A weight without a schedule needs none.
    model = build(distill_loss=dict(type='KLDivergence'))
    model.set_progress()
    model(images, labeled(), mode='loss')


# ------------------------------------------------------------ what it gives


def test_labels_in_their_forms(images):
    model = build()
    expected = model(images, labeled(), mode='loss')
    together = BatchSamples(torch.arange(6), LABELS)
    assert_close(build()(images, together, mode='loss'), expected)
    scores = F.one_hot(LABELS, CLASSES).float()
    scores = [DataSample().set_gt_score(score) for score in scores]
    assert_close(build()(images, scores, mode='loss'), expected)


def test_the_loss_is_that_of_the_head(images):
    student = architecture(stages=2)
    student['head']['loss'] = dict(type='CrossEntropyLoss', loss_weight=0.5)
    plain = build()(images, labeled(), mode='loss')
    half = build(student=student)(images, labeled(), mode='loss')
    for name, value in plain.items():
        factor = 1 if name.startswith('distill') else 0.5
        assert_close(half[name], factor * value)


@pytest.mark.parametrize('predict', ['branch', 'ensemble'])
def test_predictions(images, predict):
    model = build(predict=predict).eval()
    logits, mixture = model.logits(images)
    expected = logits[0] if predict == 'branch' else mixture
    assert not torch.allclose(logits[0], mixture, atol=1e-3)
    assert_close(model(images), expected)
    samples = labeled()
    found = model(images, samples, mode='predict')
    for sample, row, label in zip(found, expected, LABELS, strict=True):
        assert_close(sample.pred_score, row.softmax(0))
        assert sample.pred_label == row.argmax()
        assert sample.gt_label == label
    assert len(model(images, mode='predict')) == 6


def test_nothing_is_left_behind(images):
    model = build()
    model(images, labeled(), mode='loss')

    def kept(module):
        recorder = model._trunk
        records = [r.records for r in recorder._outputs.values()]
        return [*records, recorder._input.records]

    assert not any(kept(model))
    with pytest.raises(RuntimeError):
        model(images[:, :2], labeled(), mode='loss')
    assert not any(kept(model))
    # Hooks rest while nothing is recorded.
    model.student(images)
    assert not any(kept(model))


def test_a_call_that_was_not_there_before(images):
    model = build()
    model.branches['1'].backbone.layer1.outputs = []
    model._trunk._outputs['backbone.layer1'].remove()
    with pytest.raises(RuntimeError, match='called in another way than'):
        model(images, labeled(), mode='loss')


def test_copies_after_a_step(images):
    model = build()
    sum(model(images, labeled(), mode='loss').values()).backward()
    average = ExponentialMovingAverage(model, momentum=0.5)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        average.module,
    ]
    model.eval()
    expected = model.logits(images)
    for copied in copies:
        copied.eval()
        assert_close(copied.logits(images), expected)
        # It has hooks of its own.
        copied.student.backbone.conv1.weight.data.zero_()
        assert not torch.allclose(copied.logits(images)[1], expected[1])
        assert_close(model.logits(images), expected)


def test_replaced_modules_are_hooked_again(images):
    model = build().eval()
    expected = model.logits(images)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(model.student.backbone.bn1, nn.SyncBatchNorm)
    assert isinstance(model.gate.bn, nn.SyncBatchNorm)
    assert_close(model.eval().logits(images), expected)


def test_in_place_at_the_branching_point(seed):
    """What the first module of a branch does to its input is its own."""
    images = torch.randn(3, 3, 8, 8)
    model = build(student=classifier(InPlace, 4), branch_from='backbone.add')
    expected = [whole_branch(model, number)(images) for number in range(3)]
    logits, mixture = model.logits(images)
    assert_close(logits, expected)
    mixture.sum().backward()


class InPlace(nn.Module):
    """Adds to a map in place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.add = Add()
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return (self.last(self.add(self.conv(x))),)


class Add(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        return x.add_(self.bias).tanh()


class Iterated(nn.Module):
    """Goes through containers without calling them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.stage = nn.Conv2d(4, 4, 1)
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.more = nn.ModuleList([nn.Conv2d(4, 4, 1)])

    def forward(self, x):
        for layer in (*self.first, self.stage, *self.last, *self.more):
            x = layer(x).tanh()
        return (x,)


def test_containers_that_are_not_called(images):
    model = build(
        student=classifier(Iterated, 4), branch_from='backbone.stage'
    )
    expected = [whole_branch(model, number)(images) for number in range(3)]
    assert_close(model.logits(images)[0], expected)
    keys = model.branches['1'].backbone.state_dict()
    assert {key.split('.')[0] for key in keys} == {'stage', 'last', 'more'}


def test_channels_last_and_half(images):
    plain = build()
    model = build(channels_last=True)
    for branch in (model.student, model.branches['2']):
        weight = branch.backbone.layer2[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
    expected = plain(images, labeled(), mode='loss')
    assert_close(model(images, labeled(), mode='loss'), expected)
    with torch.autocast('cpu', torch.bfloat16):
        logits, mixture = plain.logits(images)
        losses = plain(images, labeled(), mode='loss')
    assert logits[0].dtype == logits[1].dtype == torch.bfloat16
    assert mixture.dtype == torch.float32
    assert_close(losses, expected, rtol=0.1, atol=0.02)


def test_compiled_once(images):
    model = build(
        student=classifier(InPlace, 4),
        branch_from='backbone.add',
        num_branches=2,
        distill_loss=dict(
            type='KLDivergence',
            loss_weight=dict(type='SigmoidRamp', end=40, by_epoch=False),
        ),
    ).eval()
    torch._dynamo.reset()
    frames = CompileCounter()
    run = torch.compile(model, backend=frames)
    counts = []
    for step in (0, 20, 30, 40):
        model.set_progress(iteration=step)
        found = run(images, labeled(), mode='loss')
        assert_close(found, model(images, labeled(), mode='loss'))
        counts.append(frames.frame_count)
    assert counts[-1] == counts[1]


# ---------------------------------------------------------------- training


def training(folder, load_from=None, epochs=3):
    student = architecture(stages=2, classes=3)
    runner = build_runner(
        folder,
        dict(
            type='ONE',
            student=student,
            branch_from='backbone.layer2',
            distill_loss=dict(
                type='KLDivergence',
                tau=3.0,
                loss_weight=dict(type='SigmoidRamp', value=8.0, end=3),
            ),
            data_preprocessor=dict(
                PREPROCESSOR,
                augments=[dict(type='BatchRandomFlip', prob=0.5)],
            ),
        ),
        loader(make_dataset(10), shuffle=True),
        [dict(type='ReseedHook'), Terms()],
        epochs=epochs,
        load_from=load_from and str(load_from),
        resume=load_from is not None,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        ),
        default_hooks=dict(
            logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
        ),
    )
    runner.train()
    return runner


class Terms(Watcher):
    """Notes all terms of each step."""

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.losses.append({k: v.item() for k, v in outputs.items()})


def test_resumed_run_is_the_same(tmp_path):
    one, two = tmp_path / 'straight', tmp_path / 'resumed'
    straight = training(one)
    resumed = training(two, load_from=one / 'epoch_1.pth')
    names = ('state_dict', 'optimizer')
    expected, found = (
        torch.load(folder / 'epoch_3.pth', weights_only=False)
        for folder in (one, two)
    )
    assert leaves([found[name] for name in names]) == leaves(
        [expected[name] for name in names]
    )
    terms = [
        next(h.losses for h in run.hooks if isinstance(h, Terms))
        for run in (straight, resumed)
    ]
    assert terms[1] == terms[0][3:]
    # The ramp went by the epoch, in which there are three steps.
    model = straight.model
    for epoch, weight in enumerate(
        8 * math.exp(-5 * (1 - e / 3) ** 2) for e in range(4)
    ):
        model.set_progress(epoch)
        assert model._weight() == pytest.approx(weight)


# ------------------------------------------------------------------ export


@pytest.fixture
def run_of_one(tmp_path, images):
    """Config and checkpoint of a run, and what its branches answer."""
    model = build().train()
    model(images, labeled(), mode='loss')
    model.eval()
    config = Config(
        dict(
            custom_imports=dict(imports=['mmkd_plugin']),
            default_scope='mmpretrain',
            model=dict(
                type='ONE',
                student=architecture(stages=2),
                branch_from='backbone.layer2',
                data_preprocessor=PREPROCESSOR,
            ),
            input_size=8,
        )
    )
    config.dump(str(tmp_path / 'one.py'))
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return tmp_path, model


def tool(name, monkeypatch, *args):
    """Run a tool in this process."""
    spec = importlib.util.spec_from_file_location(
        f'tool_{name}', TOOLS / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr('sys.argv', [f'{name}.py', *map(str, args)])
    module.main()


def test_export_of_each_branch(run_of_one, images, monkeypatch):
    folder, model = run_of_one
    expected, _ = model.logits(images)
    for number in range(3):
        out = folder / f'branch{number}.pth'
        more = ['--branch', number] if number else []
        tool(
            'export_student',
            monkeypatch,
            *(folder / 'one.py', folder / 'epoch_1.pth', out, *more),
        )
        exported = mmpretrain.get_model(
            str(out.with_suffix('.py')), pretrained=str(out)
        )
        with torch.no_grad():
            assert_close(exported(images), expected[number], rtol=0, atol=0)


def test_export_of_a_branch_that_is_not_there(run_of_one):
    folder, _ = run_of_one
    config = Config.fromfile(folder / 'one.py')
    paths = str(folder / 'epoch_1.pth'), str(folder / 'out.pth')
    with pytest.raises(
        ValueError, match=r'no branch 3; there is 0 \(the student\), 1, 2'
    ):
        export_student(config, *paths, branch=3)
    with pytest.raises(ValueError, match=r'no branch -1'):
        export_student(config, *paths, branch=-1)


@pytest.mark.parametrize('predict', ['branch', 'ensemble'])
def test_test_tool(run_of_one, predict, monkeypatch):
    folder, model = run_of_one
    config = Config.fromfile(folder / 'one.py')
    digits = dict(type='DemoDigits', split='test', size=8)
    config.test_dataloader = loader(digits, batch_size=200)
    config.test_evaluator = dict(type='Accuracy', topk=(1,))
    config.test_cfg = dict()
    config.log_level = 'ERROR'
    config.model.predict = predict
    config.dump(str(folder / 'test.py'))
    out = folder / 'out.json'
    tool(
        'test',
        monkeypatch,
        *(folder / 'test.py', folder / 'epoch_1.pth', '--out', out),
        *('--work-dir', folder / 'test'),
    )
    dataset = DATASETS.build(digits)
    images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2)
    logits, mixture = model.logits((images.float() - 120.5) / 60)
    labels = torch.as_tensor(dataset.labels)
    answers = [logits[0], mixture]
    hits = [(z.argmax(1) == labels).float().mean().item() for z in answers]
    assert hits[0] != hits[1]
    found = json.loads(out.read_text())['accuracy/top1']
    expected = 100 * hits[predict == 'ensemble']
    assert found == pytest.approx(expected, rel=1e-5)


def test_registered_in_any_scope():
    for scope in (None, 'mmpretrain'):
        with DefaultScope.overwrite_default_scope(scope):
            assert MODELS.get('ONE') is ONE
