"""Published checkpoints as checkpoints of mmpretrain."""

import argparse
import copy
import hashlib
import os
import re

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from published_networks import NETWORKS, published_logits, published_state
from shared_data import shared_file

from mmkd_plugin.engine.convert import convert_checkpoint, recognise
from mmkd_plugin.utils.checkpoint import load_strict, load_weights

# The backbone for each published network, and the channels that it pools.
BACKBONES = {
    **{
        f'resnet{depth}': (dict(type='CifarResNet', depth=depth), 64)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    'resnet8x4': (dict(type='CifarResNet', depth=8, width=4), 256),
    'resnet32x4': (dict(type='CifarResNet', depth=32, width=4), 256),
    **{
        f'akamaster_resnet{depth}': (
            dict(type='CifarResNet', depth=depth, shortcut='pad'),
            64,
        )
        for depth in (20, 32, 44, 56, 110)
    },
    'ResNet18': (dict(type='ResNet_CIFAR', depth=18), 512),
    'ResNet50': (dict(type='ResNet_CIFAR', depth=50), 2048),
    **{
        f'wrn_{depth}_{widen}': (
            dict(type='CifarWideResNet', depth=depth, widen_factor=widen),
            64 * widen,
        )
        for depth in (16, 40)
        for widen in (1, 2)
    },
    **{
        f'vgg{depth}': (dict(type='CifarVGG', depth=depth), 512)
        for depth in (8, 11, 13, 16, 19)
    },
    'mobile_half': (dict(type='CifarMobileNetV2', width_mult=0.5), 1280),
    'ShuffleV1': (dict(type='CifarShuffleNetV1'), 960),
    'ShuffleV2': (dict(type='CifarShuffleNetV2'), 1024),
}
CIFAR100 = dict(
    type='BatchAugDataPreprocessor',
    mean=[129.304, 124.070, 112.434],
    std=[68.170, 65.392, 70.418],
)


def classifier(name, classes=100, **backbone):
    options, channels = BACKBONES[name]
    return dict(
        type='ImageClassifier',
        backbone=dict(options, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=classes, in_channels=channels
        ),
    )


def config_of(name, classes=100, **backbone):
    model = classifier(name, classes, **backbone)
    return Config(dict(model=dict(model, data_preprocessor=CIFAR100)))


def build(model):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(model))
    model.eval()
    return model


def save(folder, content, name='ckpt_epoch_240.pth', **options):
    path = str(folder / name)
    torch.save(content, path, **options)
    return path


@pytest.fixture
def source(tmp_path):
    """A published checkpoint of WRN-16-1."""
    return save(tmp_path, dict(epoch=240, model=published_state('wrn_16_1')))


@pytest.fixture
def out(tmp_path):
    (tmp_path / 'out').mkdir()
    return str(tmp_path / 'out' / 'small.pth')


def test_all_published_networks_are_here():
    assert set(BACKBONES) == set(NETWORKS)


@pytest.mark.parametrize(
    'name',
    [
        'resnet20',
        'resnet8x4',
        'akamaster_resnet20',
        'ResNet18',
        'ResNet50',
        'wrn_16_2',
        'wrn_40_1',
        'vgg13',
        'mobile_half',
        'ShuffleV1',
        'ShuffleV2',
    ],
)
def test_the_answers_stay_the_same(name, tmp_path, out, seed):
    state = published_state(name, classes=7, seed=3)
    source = save(tmp_path, dict(epoch=240, model=state))
    config = config_of(name, classes=7)
    done = convert_checkpoint(config, source, out)

    model = build(config.model)
    load_strict(model, load_weights(out), 'test')
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        found = model.double()(images, mode='tensor')
    double = {
        k: v.double() if v.is_floating_point() else v for k, v in state.items()
    }
    expected = published_logits(name, double, images)
    scale = expected.abs().max()
    # Not all the same, for then anything would do.
    assert expected.std(0).max() > 1e-2 * scale
    assert (found - expected).abs().max() <= 1e-10 * scale

    assert list(done.renamed) == list(state)
    assert set(done.renamed.values()) == set(load_weights(out))
    assert done.num_absent == 0 and done.left_out == []
    # Batch counts are taken as well.
    counts = [
        v
        for k, v in load_weights(out).items()
        if k.endswith('batches_tracked')
    ]
    assert counts and all(count == 187680 for count in counts)


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_is_recognised(name):
    state = published_state(name)
    layout = recognise(state)
    found, options = layout.describe(state)
    assert found == name.removeprefix('akamaster_')
    assert (layout.source == 'akamaster') == name.startswith('akamaster_')
    backbone, _ = BACKBONES[name]
    assert layout.backbone == backbone['type']
    # The options are what an error tells to set.
    assert dict(backbone, **options) == dict(options, **backbone)
    fitting = MODELS.build(
        dict(type=layout.backbone, _scope_='mmpretrain', **options)
    )
    names = {
        layout.new_name(k) for k in state if not k.startswith(layout.head)
    }
    assert names == {f'backbone.{k}' for k in fitting.state_dict()}


def test_what_is_written(source, out):
    done = convert_checkpoint(config_of('wrn_16_1'), source, out)
    assert os.listdir(os.path.dirname(out)) == ['small.pth']
    content = torch.load(out, weights_only=True)
    with open(source, 'rb') as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    network = 'wrn_16_1 (RepDistiller, mdistiller), 100 classes'
    assert done.sha256 == sha256 and done.network == network
    assert (
        content['meta'].items()
        >= {
            'source': 'ckpt_epoch_240.pth',
            'source_network': network,
            'source_sha256': sha256,
        }.items()
    )
    assert {'mmengine_version', 'mmkd_plugin_version'} <= set(content['meta'])
    assert set(content) == {'meta', 'state_dict'}
    published = torch.load(source, weights_only=True)['model']
    for old, new in (
        ('conv1.weight', 'backbone.conv1.weight'),
        (
            'block3.layer.0.convShortcut.weight',
            'backbone.layer3.0.downsample.weight',
        ),
        ('fc.bias', 'head.fc.bias'),
    ):
        assert done.renamed[old] == new
        assert torch.equal(content['state_dict'][new], published[old])


def test_who_takes_it(source, out):
    config = config_of('wrn_16_1')
    convert_checkpoint(config, source, out)
    images = torch.randn(2, 3, 32, 32)
    expected = published_logits('wrn_16_1', load_weights(source), images)

    model = mmpretrain.get_model(config, pretrained=out)
    with torch.no_grad():
        assert torch.allclose(model(images), expected, rtol=1e-4, atol=1e-4)

    recorders = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    teacher = dict(classifier('wrn_16_1'), _scope_='mmpretrain')
    algorithm = MODELS.build(
        dict(
            type='SingleTeacherDistill',
            teacher=teacher,
            teacher_ckpt=out,
            student=teacher,
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=recorders,
                teacher_recorders=recorders,
                distill_losses=dict(loss_kl=dict(type='KLDivergence')),
                loss_forward_mappings=dict(
                    loss_kl=dict(
                        preds_S=dict(from_student=True, recorder='logits'),
                        preds_T=dict(from_student=False, recorder='logits'),
                    )
                ),
            ),
        )
    )
    with torch.no_grad():
        found = algorithm.teacher(images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_teacher_of_a_distillation(source, out, tmp_path):
    algorithm = dict(
        type='SingleTeacherDistill',
        data_preprocessor=CIFAR100,
        student=classifier('resnet20'),
        teacher=classifier('wrn_16_1'),
        teacher_ckpt='no_such_file.pth',
    )
    config = Config(dict(model=algorithm))
    assert convert_checkpoint(config, source, out).notes == []

    config_of('wrn_16_1').dump(str(tmp_path / 'teacher.py'))
    algorithm['teacher'] = dict(cfg_path=str(tmp_path / 'teacher.py'))
    config = Config(dict(model=algorithm))
    done = convert_checkpoint(config, source, out, force=True)
    assert len(load_weights(out)) == len(done.renamed)


def test_what_training_scripts_save(tmp_path, out):
    state = published_state('wrn_16_1')
    prefixed = {f'module.{k}': v for k, v in state.items()}
    distiller = {
        **{f'module.student.{k}': v for k, v in state.items()},
        'module.teacher.conv1.weight': torch.zeros(16, 3, 3, 3),
        'module.teacher.fc.bias': torch.zeros(100),
        'module.conv_reg.bn.weight': torch.ones(3),
    }
    options = argparse.Namespace(model='wrn_16_1', lr_decay_epochs=[150])
    best = np.float64(73.2)
    for content, zipped in (
        (state, True),
        (prefixed, True),
        (dict(state_dict=prefixed, best_prec1=91.7), True),
        (dict(opt=options, model=state, optimizer=dict(state={})), True),
        # The published files are of 2019, before PyTorch's zip files.
        (dict(opt=options, model=state, accuracy=torch.tensor(73.2)), False),
        (dict(epoch=3, model=distiller, best_acc=best), True),
    ):
        source = save(tmp_path, content, _use_new_zipfile_serialization=zipped)
        config = config_of('wrn_16_1')
        done = convert_checkpoint(config, source, out, force=True)
        assert list(done.renamed) == list(state)
        found = load_weights(out)
        for old, new in done.renamed.items():
            assert torch.equal(found[new], state[old])
    assert done.left_out == [
        'teacher.conv1.weight',
        'teacher.fc.bias',
        'conv_reg.bn.weight',
    ]
    assert 'left out: 2 tensors of teacher\n' in done.report()
    assert 'left out: 1 tensors of conv_reg\n' in done.report()


def test_without_batch_counts(tmp_path, out):
    state = published_state('wrn_16_1', tracked=False)
    source = save(tmp_path, dict(model=state))
    done = convert_checkpoint(config_of('wrn_16_1'), source, out)
    found = load_weights(out)
    counts = [k for k in found if k.endswith('num_batches_tracked')]
    assert done.num_absent == len(counts) == 13
    assert all(found[key] == 0 for key in counts)
    assert 'absent: 13 num_batches_tracked, now 0' in done.report()


def test_half_precision_becomes_single(tmp_path, out):
    state = published_state('wrn_16_1')
    halves = {
        k: v.half() if v.is_floating_point() else v for k, v in state.items()
    }
    source = save(tmp_path, dict(state_dict=halves))
    convert_checkpoint(config_of('wrn_16_1'), source, out)
    found = load_weights(out)['head.fc.weight']
    assert found.dtype == torch.float32
    assert torch.equal(found, halves['fc.weight'].float())


def test_report(source, out):
    done = convert_checkpoint(config_of('wrn_16_1'), source, out)
    assert done.report().splitlines() == [
        'found: wrn_16_1 (RepDistiller, mdistiller), 100 classes',
        'taken: 82 tensors, 180,916 parameters',
        '     1  conv*                        -> backbone.conv*',
        '    60  block*.layer.*.bn*           -> backbone.layer*.*.bn*',
        '    12  block*.layer.*.conv*         -> backbone.layer*.*.conv*',
        '     2  block*.layer.*.convShortcut  -> backbone.layer*.*.downsample',
        '     5  bn*                          -> backbone.bn*',
        '     2  fc                           -> head.fc',
        f'written: {out}',
    ]


def test_statistics_of_the_input(source, out):
    def notes(**preprocessor):
        model = dict(classifier('wrn_16_1'), data_preprocessor=preprocessor)
        config = Config(dict(model=model))
        return convert_checkpoint(config, source, out, force=True).notes

    assert notes(mean=CIFAR100['mean'], std=CIFAR100['std']) == []
    for wrong in (
        notes(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
        notes(mean=CIFAR100['mean']),
        # Scaled to 1, as in the published code.
        notes(mean=[0.507, 0.487, 0.441], std=[0.267, 0.256, 0.276]),
    ):
        assert len(wrong) == 1
        assert re.search(r'normalise with mean \(129\.3, 124\.1', wrong[0])
    config = config_of('wrn_16_1')
    config.data_preprocessor = config.model.pop('data_preprocessor')
    assert convert_checkpoint(config, source, out, force=True).notes == []


@pytest.mark.parametrize('depth', [20, 32, 44, 56])
def test_real_checkpoints(depth, out):
    source = str(
        shared_file(f'data/checkpoints/cifar10_resnet{depth}_akamaster.pth')
    )
    name = f'akamaster_resnet{depth}'
    config = config_of(name, classes=10)
    done = convert_checkpoint(config, source, out)
    assert done.network == f'resnet{depth} (akamaster), 10 classes'
    # They are of a time before the counts.
    assert done.num_absent == depth - 1
    assert 'normalise with mean (123.7, 116.3, 103.5)' in done.notes[0]
    model = build(config.model)
    load_strict(model, load_weights(out), 'test')
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = model(images, mode='tensor')
    expected = published_logits(name, load_weights(source), images)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)


class TestErrors:
    """Each is one message, and nothing is written."""

    @pytest.fixture(autouse=True)
    def _nothing_is_written(self, out):
        self.out = out
        yield
        assert os.listdir(os.path.dirname(out)) == []

    def message(self, config, source, error=ValueError, out=None):
        with pytest.raises(error) as info:
            convert_checkpoint(config, source, out or self.out)
        return str(info.value)

    def test_another_network(self, source):
        # Of another family.
        text = self.message(config_of('resnet20'), source)
        assert (
            'ckpt_epoch_240.pth is wrn_16_1 (RepDistiller, mdistiller), 100 '
            "classes; it fits backbone=dict(type='CifarWideResNet', depth=16, "
            'widen_factor=1).\nThe config has backbone=dict('
            "type='CifarResNet', depth=20), 100 classes.\n"
        ) in text
        assert 'missing: backbone.bn1' not in text
        assert re.search(
            r'\d+ unexpected: backbone\.block1\.layer\.0\.bn1\.', text
        )
        assert re.search(r'\d+ missing: backbone\.layer1\.0\.conv1', text)
        # Of the same one.
        text = self.message(config_of('wrn_40_1'), source)
        assert "type='CifarWideResNet', depth=40" in text
        assert re.search(r'\d+ missing: .*layer1\.2\.bn1\.weight', text)
        text = self.message(config_of('wrn_16_2'), source)
        assert (
            'backbone.layer1.0.conv1.weight: checkpoint (16, 16, 3, 3) vs '
            'model (32, 16, 3, 3)'
        ) in text

    def test_shortcuts(self, tmp_path):
        source = save(tmp_path, published_state('resnet20'), 'conv.pth')
        text = self.message(config_of('akamaster_resnet20'), source)
        assert 'is resnet20 (RepDistiller, mdistiller)' in text
        assert 'unexpected: backbone.layer2.0.downsample.0.weight' in text
        source = save(tmp_path, published_state('akamaster_resnet20'))
        text = self.message(config_of('resnet20'), source)
        assert "width=1, shortcut='pad')" in text
        assert 'missing: backbone.layer2.0.downsample.0.weight' in text

    def test_number_of_classes(self, source):
        text = self.message(config_of('wrn_16_1', classes=10), source)
        assert 'mdistiller), 100 classes;' in text
        assert 'widen_factor=1), 10 classes.\n' in text
        assert 'Set num_classes of its head to 100' in text
        assert (
            '2 of another shape: head.fc.weight: checkpoint (100, 64) vs '
            'model (10, 64)'
        ) in text

    def test_tensors_more_or_less(self, tmp_path):
        state = published_state('wrn_16_1')
        del state['block2.layer.1.bn2.running_var'], state['fc.weight']
        state['extra.weight'] = torch.ones(3)
        source = save(tmp_path, dict(model=state))
        text = self.message(config_of('wrn_16_1'), source)
        assert (
            '2 missing: backbone.layer2.1.bn2.running_var, head.fc.weight\n'
            '1 unexpected: backbone.extra.weight'
        ) in text
        assert 'Set num_classes' not in text

    def test_not_finite(self, tmp_path):
        state = published_state('wrn_16_1')
        state['bn1.running_var'][3] = float('inf')
        source = save(tmp_path, dict(model=state))
        text = self.message(config_of('wrn_16_1'), source)
        assert 'not all values of bn1.running_var are finite' in text

    def test_unknown_layout(self, tmp_path, source):
        source = save(tmp_path, {'a.weight': torch.ones(2)})
        text = self.message(config_of('resnet20'), source)
        assert 'is of no known network. Its 1 keys are a.weight; ' in text
        assert 'mdistiller (`layer1.0.conv1.weight`, `fc.weight`)' in text
        assert 'akamaster (`layer1.0.conv1.weight`, `linear.weight`)' in text

        state = build(classifier('resnet20')).state_dict()
        source = save(tmp_path, dict(state_dict=state))
        text = self.message(config_of('resnet20'), source)
        assert 'has the keys of mmpretrain (`backbone.*`) already' in text

    def test_no_checkpoint(self, tmp_path, source):
        config = config_of('wrn_16_1')
        missing = str(tmp_path / 'none.pth')
        text = self.message(config, missing, FileNotFoundError)
        assert text == f'There is no checkpoint {missing}'
        assert 'is a directory' in self.message(config, str(tmp_path))
        with open(source, 'rb') as file:
            whole = file.read()
        bad = tmp_path / 'bad.pth'
        for content, message in (
            (b'', 'is empty (0 bytes)'),
            (whole[: len(whole) // 2], 'is truncated or not a PyTorch'),
            (b'hello', 'is truncated or not a PyTorch'),
        ):
            bad.write_bytes(content)
            assert message in self.message(config, str(bad))
        for content, message in (
            ({}, 'holds no weights'),
            ([1, 2], 'holds a list, expected a dict'),
            (dict(epoch=3, optimizer={}), 'is no dict of tensors'),
        ):
            source = save(tmp_path, content, 'bad.pth')
            assert message in self.message(config, source)

    def test_config(self, source):
        model = classifier('wrn_16_1')
        for config, message in (
            (dict(a=1), 'the config has no `model`'),
            (dict(model=dict(type='TimmClassifier')), "a 'TimmClassifier'"),
            (
                dict(model=dict(model, backbone=dict(type='ResNet', depth=5))),
                "no published checkpoints for the backbone 'ResNet' of the "
                'config; nearest: CifarResNet',
            ),
            (
                dict(model=dict(model, head=dict(type='ClsHead'))),
                'must have one linear layer as its head',
            ),
        ):
            assert message in self.message(Config(config), source)
        text = self.message(config_of('wrn_16_1', depth=17), source)
        assert 'depth must be one of' in text

    def test_options_that_no_weight_tells(self, tmp_path):
        # Its keys and shapes are those of the published network.
        source = save(tmp_path, published_state('ResNet18', classes=2))
        config = config_of('ResNet18', classes=2, style='caffe')
        text = self.message(config, source)
        assert "has style='pytorch', but the config has 'caffe'" in text
        config = config_of('ResNet18', classes=2, strides=[1, 1, 2, 2])
        assert 'strides=(1, 2, 2, 2)' in self.message(config, source)

    def test_output(self, source, tmp_path):
        config = config_of('wrn_16_1')
        text = self.message(config, source, out='small.pt')
        assert 'must end in .pth, but got small.pt' in text
        text = self.message(
            config, source, FileNotFoundError, str(tmp_path / 'no' / 'x.pth')
        )
        assert 'there is no folder' in text
        text = self.message(config, source, out=source)
        assert 'would overwrite' in text
        (tmp_path / 'folder.pth').mkdir()
        text = self.message(config, source, out=str(tmp_path / 'folder.pth'))
        assert 'would overwrite' in text


def test_an_existing_file_is_kept(source, out, tmp_path):
    with open(out, 'w') as file:
        file.write('mine')
    config = config_of('wrn_16_1')
    with pytest.raises(FileExistsError, match=r'exists\. Use --force'):
        convert_checkpoint(config, source, out)
    # Nor if there is nothing to put in its place.
    with pytest.raises(ValueError, match='missing'):
        convert_checkpoint(config_of('wrn_40_1'), source, out, force=True)
    with open(out) as file:
        assert file.read() == 'mine'
    with pytest.raises(ValueError, match='would overwrite'):
        convert_checkpoint(config, source, source, force=True)
    convert_checkpoint(config, source, out, force=True)
    assert len(load_weights(out)) == 82
