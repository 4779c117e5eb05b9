"""Every shipped config builds, and says what the docs say."""

import copy
import functools
import math
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    MODELS,
    init_default_scope,
)
from mmengine.runner import Runner

from mmkd_plugin.datasets import ArrayImages
from mmkd_plugin.engine.mosaic_players import MosaicPlayers
from mmkd_plugin.engine.preflight import missing_inputs
from mmkd_plugin.explain import Experiment
from mmkd_plugin.models import SingleTeacherDistill

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.as_posix() and path.stem[0] != '_'
)
# Types of data sets that come with labels.
LABELED = {'CIFAR10', 'CIFAR100', 'CUB', 'ImageNet'}

# What trains on images with labels without looking at them.
FEATURES_ALONE = ('ab_init_', 'fsp_init_', 'ft_init_', 'simkd_')

# SDD's tables: the pairs, and the rate at which the student's training starts.
CIFAR_PAIRS = {
    'r32x4_shuv1': 0.01,
    'wrn40_2_shuv1': 0.01,
    'r50_mv2': 0.01,
    'vgg13_mv2': 0.01,
    'r32x4_shuv2': 0.01,
    'r50_vgg8': 0.05,
    'r32x4_mv2': 0.01,
    'wrn40_2_vgg8': 0.05,
    'wrn40_2_mv2': 0.01,
    'r50_shuv1': 0.01,
    'r32x4_r8x4': 0.05,
    'vgg13_vgg8': 0.05,
}
CUB_PAIRS = {
    'r32x4_mv2': 0.01,
    'r32x4_shuv1': 0.01,
    'vgg13_mv2': 0.01,
    'vgg13_vgg8': 0.05,
    'r50_shuv1': 0.01,
}
DATA_SETS = {
    'cifar100': (CIFAR_PAIRS, 100, 'CIFAR-100'),
    'cub200': (CUB_PAIRS, 200, 'CUB-200-2011'),
    'imagenet': ({'r34_r18': 0.2}, 1000, 'ImageNet'),
}
METHODS = ('kd', 'dkd', 'nkd', 'sdd_kd', 'sdd_dkd', 'sdd_nkd')
ROWS = [
    (method, pair, data)
    for data, (pairs, _, _) in DATA_SETS.items()
    for pair in pairs
    for method in METHODS
]
# Another beta, or gamma, than 8.
SIX = {
    ('dkd', 'vgg13_mv2', 'cifar100'),
    ('dkd', 'vgg13_vgg8', 'cifar100'),
    ('dkd', 'r32x4_mv2', 'cifar100'),
    ('dkd', 'wrn40_2_mv2', 'cifar100'),
    *(
        (method, pair, 'cifar100')
        for method in ('sdd_dkd', 'sdd_nkd')
        for pair in ('vgg13_mv2', 'vgg13_vgg8', 'wrn40_2_mv2')
    ),
    *(
        (method, pair, 'cub200')
        for method in ('dkd', 'nkd', 'sdd_dkd', 'sdd_nkd')
        for pair in ('vgg13_mv2', 'vgg13_vgg8')
    ),
}
# Another M than [1,2,4].
TWO_SCALES = {
    *((method, 'r32x4_r8x4', 'cifar100') for method in METHODS),
    *((method, 'vgg13_vgg8', 'cifar100') for method in METHODS),
    ('sdd_nkd', 'r50_vgg8', 'cifar100'),
    ('sdd_nkd', 'wrn40_2_vgg8', 'cifar100'),
    *((method, 'r34_r18', 'imagenet') for method in METHODS),
}
BACKBONES = dict(
    r32x4=dict(type='CifarResNet', depth=32, width=4),
    r8x4=dict(type='CifarResNet', depth=8, width=4),
    wrn40_2=dict(type='CifarWideResNet', depth=40, widen_factor=2),
    vgg13=dict(type='CifarVGG', depth=13),
    vgg8=dict(type='CifarVGG', depth=8),
    r50=dict(type='ResNet_CIFAR', depth=50),
    mv2=dict(type='CifarMobileNetV2', width_mult=0.5),
    shuv1=dict(type='CifarShuffleNetV1'),
    shuv2=dict(type='CifarShuffleNetV2'),
    r34=dict(type='ResNet', depth=34),
    r18=dict(type='ResNet', depth=18),
)
# On images of 224x224: another first convolution, as in train_origin.py of
# SDD's repository, and the side of the last map, as that pools it.
LARGE = dict(
    r32x4=(dict(BACKBONES['r32x4'], stem='large'), 28),
    vgg13=(BACKBONES['vgg13'], 28),
    vgg8=(BACKBONES['vgg8'], 28),
    r50=(dict(type='UnpooledResNet', depth=50, zero_init_residual=False), 14),
    mv2=(dict(BACKBONES['mv2'], stem='large'), 7),
    shuv1=(dict(BACKBONES['shuv1'], stem='large'), 14),
)
# MosaicKD: the networks, and the numbers of their parameters.
MOSAIC_PAIRS = {
    'r34_r18': (21_328_292, 11_220_132),
    'wrn402_wrn161': (2_255_156, 180_916),
    'wrn402_wrn401': (2_255_156, 569_780),
    'wrn402_wrn162': (2_255_156, 703_284),
}
OUT_OF_DOMAIN = dict(
    cifar10='CIFAR-10',
    imagenet32='a part of ImageNet',
    places365='a part of Places365',
    svhn='SVHN',
)
MOSAIC = [(pair, ood) for pair in MOSAIC_PAIRS for ood in OUT_OF_DOMAIN]
MOSAIC_MAIN = 'mosaickd_wrn402_wrn161_cifar100_ood-cifar10'
MOSAIC_OTHERS = {
    f'{MOSAIC_MAIN}_image-d.py',
    f'{MOSAIC_MAIN}_official.py',
    f'{MOSAIC_MAIN}_synthetic-only.py',
    'mosaickd_sdd_wrn402_wrn161_cifar100_ood-cifar10.py',
    'mosaickd_custom_r18_folder.py',
}
TEACHERS = dict(
    r32x4='resnet32x4', wrn40_2='wrn40_2', vgg13='vgg13', r50='resnet50'
)


@functools.cache
def _loaded(name):
    return Config.fromfile(CONFIGS / name)


def load(name):
    config = copy.deepcopy(_loaded(name))
    init_default_scope(config.default_scope)
    return config


@functools.cache
def _network(text, role):
    # Teacher and student never share one.
    config = Config.fromstring(text, '.py').network
    if config.get('backbone', {}).get('type') == 'VGG':
        # Half a gigabyte of values, for which no test asks.
        with torch.device('meta'):
            config.backbone = MODELS.build(config.backbone)
    return MODELS.build(config)


def network(config, role):
    return _network(f'network = {config.to_dict()!r}', role)


@pytest.fixture(scope='module', autouse=True)
def networks_go_afterwards():
    yield
    _network.cache_clear()


def split(pair):
    teacher, _, student = pair.rpartition('_')
    return teacher, student


def expected(method, pair, data):
    """The weight of the cross entropy, the losses and SDD's scales."""
    row = method, pair, data
    eight = 6.0 if row in SIX else 8.0
    growing = dict(type='LinearWarmup', value=1.0, end=20)
    if data == 'imagenet':
        growing = 1.0
    scales = (1, 2) if row in TWO_SCALES else (1, 2, 4)
    kl = dict(type='KLDivergence', tau=4.0)
    dkd = dict(type='DKDLoss', alpha=1.0, beta=eight, tau=4.0)
    nkd = dict(type='NKDLoss', mask_target=False, gamma=eight, tau=4.0)
    if data == 'imagenet':
        dkd.update(beta=0.5, tau=1.0)
        nkd.update(gamma=0.5, tau=1.0)
    sdd = dict(type='SDDLoss', scales=scales, weight_rule='label')
    if method == 'kd':
        if data == 'imagenet':
            return 0.5, dict(loss_kl=dict(kl, tau=1.0, loss_weight=0.5))
        return 0.1, dict(loss_kl=dict(kl, loss_weight=0.9))
    if method == 'dkd':
        return 1.0, dict(loss_dkd=dict(dkd, loss_weight=growing))
    if method == 'nkd':
        if data != 'cub200':
            nkd.update(gamma=1.5, tau=1.0)
        return 1.0, dict(loss_nkd=dict(nkd, loss_weight=growing))
    if method == 'sdd_kd':
        return 0.1, dict(loss_sdd=dict(sdd, base_loss=kl, loss_weight=0.9))
    base = dkd if method == 'sdd_dkd' else nkd
    return 1.0, dict(loss_sdd=dict(sdd, base_loss=base, loss_weight=growing))


def test_there_are_configs():
    assert 'eeikd_r34_r18_cifar100.py' in ALL
    assert len(ROWS) == 12 * 6 + 5 * 6 + 6
    assert {f'{"_".join(row)}.py' for row in ROWS} <= set(ALL)
    # All of these methods on labeled images, but one that is documented
    # as a reference, are in SDD's tables.
    others = {
        name
        for name in ALL
        if '/' not in name
        and name.startswith(tuple(f'{method}_' for method in METHODS))
    } - {f'{"_".join(row)}.py' for row in ROWS}
    assert others == {
        'kd_r34_r18_cifar100.py',
        'kd_unlabeled_r34_r18_cifar100.py',
        'kd_r34_r18_cifar100_ood-cifar10.py',
        'kd_wrn402_wrn161_cifar100_ood-cifar10.py',
    }
    assert {name for name in ALL if name.startswith('mosaickd')} == {
        *(f'mosaickd_{pair}_cifar100_ood-{ood}.py' for pair, ood in MOSAIC),
        *MOSAIC_OTHERS,
    }


@pytest.mark.parametrize('name', ALL)
def test_config_builds(name):
    config = load(name)
    if 'explain' in config:
        Experiment(config)
        return
    assert config.trained_on
    # What other runs leave.
    for checkpoint in ('checkpoint', 'student_ckpt'):
        config.model.pop(checkpoint, None)
    if 'teachers' in config.model:
        for teacher in config.model.teachers.values():
            assert teacher.pop('ckpt')
            teacher.model = network(teacher.model, 'teacher')
        MODELS.build(config.model)
        return
    if config.model.type != 'SingleTeacherDistill':
        network(config.model, 'teacher')
        return
    assert config.model.pop('teacher_ckpt')
    paraphraser = config.model.distiller.get('connectors', {}).get(
        'paraphraser', {}
    )
    for key in ('checkpoint', 'prefix'):
        paraphraser.pop(key, None)
    for role in ('teacher', 'student'):
        config.model[role] = network(config.model[role], role)
    if {'reuse_teacher_head', 'student_trainable'} & set(config.model):
        # What it freezes stays free for others.
        config.model.student = copy.deepcopy(config.model.student)
    # Here recorders are attached to both networks.
    model = MODELS.build(config.model)
    assert isinstance(model, SingleTeacherDistill)
    # Labels are used where there are some, and only there.
    dataset = config.train_dataloader.dataset
    labeled = dataset.get('dataset', dataset).type in LABELED
    labeled = labeled and dataset.get('with_label', True)
    without = name.startswith(FEATURES_ALONE)
    assert model.calculate_student_loss is (labeled and not without)
    labels_asked_for = 'gt_label' in str(config.model.distiller)
    assert labeled or not labels_asked_for
    if 'mosaic' in config.default_hooks:
        hook = config.default_hooks.mosaic
        side = hook.generator.image_size
        images = np.zeros((1, side, side, 3), dtype=np.uint8)
        images = ArrayImages(images.repeat(256, axis=0))
        HOOKS.build(hook).check_inputs(model, images, config.train_dataloader)


@pytest.mark.parametrize('name', ALL)
def test_missing_inputs_name_their_commands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(name)
    problems = missing_inputs(config)
    assert len(problems) == len(config.get('required_inputs', []))
    for problem, item in zip(
        problems, config.get('required_inputs', []), strict=True
    ):
        assert 'None' not in problem.split('\n')[0]
        if item.get('make'):
            assert item['make'] in problem


@pytest.mark.parametrize(('method', 'pair', 'data'), ROWS)
def test_row_of_a_table(method, pair, data):
    config = load(f'{method}_{pair}_{data}.py')
    pairs, classes, trained_on = DATA_SETS[data]
    weight, losses = expected(method, pair, data)
    distiller = config.model.distiller
    assert config.model.student.head.loss == dict(
        type='CrossEntropyLoss', loss_weight=weight
    )
    # The teacher's head is not weighted down along with it.
    assert 'loss' not in config.model.teacher.head
    assert distiller.distill_losses == losses

    recorders = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    if method.startswith('sdd'):
        recorders = dict(maps=dict(type='LogitMapOutputs', grid_size=4))
    (recorder,) = recorders
    assert distiller.student_recorders == recorders
    assert distiller.teacher_recorders == recorders
    mapping = dict(
        preds_S=dict(from_student=True, recorder=recorder),
        preds_T=dict(from_student=False, recorder=recorder),
    )
    if method != 'kd':
        mapping['gt_labels'] = dict(from_batch='gt_label')
    assert distiller.loss_forward_mappings == dict.fromkeys(losses, mapping)

    names = split(pair)
    for name, role in zip(names, ('teacher', 'student'), strict=True):
        backbone = config.model[role].backbone
        if data == 'cub200':
            assert backbone == LARGE[name][0]
        else:
            assert {**backbone, **BACKBONES[name]} == backbone
            assert 'stem' not in backbone
        assert config.model[role].head.num_classes == classes

    wrapper = config.optim_wrapper
    imagenet = data == 'imagenet'
    assert wrapper == dict(
        optimizer=dict(
            type='SGD',
            lr=pairs[pair],
            momentum=0.9,
            weight_decay=1e-4 if imagenet else 5e-4,
        ),
        clip_grad=dict(max_norm=40),
    )
    assert config.param_scheduler.milestones == (
        [30, 60, 90] if imagenet else [150, 180, 210]
    )
    assert config.param_scheduler.gamma == 0.1
    assert config.train_cfg.max_epochs == (100 if imagenet else 240)
    batch_size = config.auto_scale_lr.base_batch_size
    assert batch_size == (512 if imagenet else 64)
    assert config.train_dataloader.batch_size * (2 if imagenet else 1) == (
        batch_size
    )
    assert config.get('sync_bn') == ('torch' if imagenet else None)
    assert config.trained_on == trained_on


@pytest.mark.parametrize(
    ('method', 'pair', 'data'), [r for r in ROWS if r[2] != 'imagenet']
)
def test_teacher_of_a_pair(method, pair, data):
    config = load(f'{method}_{pair}_{data}.py')
    stem = f'{TEACHERS[split(pair)[0]]}_{data}'
    theirs = load(f'teachers/{stem}.py')
    # It sees images as in its own training, and is the network of it.
    assert config.model.data_preprocessor == theirs.model.data_preprocessor
    theirs.model.pop('data_preprocessor')
    assert config.model.teacher == theirs.model
    assert config.model.teacher_ckpt == (
        f'work_dirs/{stem}/epoch_{theirs.train_cfg.max_epochs}.pth'
    )
    needs = {item['key']: item['make'] for item in config.required_inputs}
    assert needs['model.teacher_ckpt'] == (
        f'python tools/train.py configs/teachers/{stem}.py'
    )
    assert len(needs) == 3
    # The published teachers were trained without clipping, at one rate.
    assert theirs.optim_wrapper == dict(
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
    )
    assert theirs.train_dataloader == config.train_dataloader


SCHEDULE = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)


def test_average_of_teachers():
    config = load('avgkd_r32x4_wrn40_2_vgg13_r8x4_cifar100.py')
    needs = {item['key']: item['make'] for item in config.required_inputs}
    names = ['r32x4', 'wrn40_2', 'vgg13']
    assert list(config.model.teachers) == names
    for name in names:
        teacher = config.model.teachers[name]
        stem = f'{TEACHERS[name]}_cifar100'
        theirs = load(f'teachers/{stem}.py')
        assert theirs.model.pop('data_preprocessor') == (
            config.model.data_preprocessor
        )
        assert teacher == dict(
            model=theirs.model, ckpt=f'work_dirs/{stem}/epoch_240.pth'
        )
        assert needs[f'model.teachers.{name}.ckpt'] == (
            f'python tools/train.py configs/teachers/{stem}.py'
        )
    distiller = config.model.distiller
    assert distiller.distill_losses == dict(
        loss_kl=dict(type='KLDivergence', tau=4.0, loss_weight=1.0)
    )
    assert distiller.connectors == dict(
        mean=dict(type='AverageProbabilities', tau=4.0)
    )
    preds = distiller.loss_forward_mappings.loss_kl.preds_T
    read = [preds.recorder, *preds.connector_inputs]
    assert [distiller.teacher_recorders[name].source for name in read] == [
        f'{name}.head.fc' for name in names
    ]
    assert config.model.student.head.loss == dict(
        type='CrossEntropyLoss', loss_weight=1.0
    )
    # CA-MKD's scripts.
    assert config.optim_wrapper == dict(
        optimizer=dict(SCHEDULE, nesterov=True)
    )


def test_teacher_assistant():
    first = load('takd_r32x4_r20x4_cifar100.py')
    second = load('takd_r20x4_r8x4_cifar100.py')
    assistant = dict(first.model.student)
    assistant['head'] = dict(assistant['head'])
    # The weight of the loss is no matter of a teacher.
    assert assistant['head'].pop('loss').loss_weight == 0.1
    assert assistant == second.model.teacher
    assert assistant['backbone'] == dict(type='CifarResNet', depth=20, width=4)
    (hook,) = [h for h in first.custom_hooks if h.type == 'SnapshotHook']
    assert first.train_cfg.max_epochs in hook.epochs
    assert second.model.teacher_ckpt == (
        'work_dirs/takd_r32x4_r20x4_cifar100/'
        f'snapshots/epoch_{first.train_cfg.max_epochs}.pth'
    )
    assert second.required_inputs[0] == dict(
        key='model.teacher_ckpt',
        make='python tools/train.py configs/takd_r32x4_r20x4_cifar100.py',
    )
    # But for the networks, both are KD.
    plain = load('kd_r32x4_r8x4_cifar100.py')
    assert second.model.student == plain.model.student
    for config in (first, second):
        assert config.model.distiller == plain.model.distiller
        assert config.optim_wrapper == plain.optim_wrapper


def test_one():
    config = load('one_r32_cifar100.py')
    assert config.model.student.backbone == dict(type='CifarResNet', depth=32)
    assert config.model.branch_from == 'backbone.layer3'
    assert config.model.num_branches == 3
    assert config.model.distill_loss == dict(
        type='KLDivergence',
        tau=3.0,
        loss_weight=dict(type='SigmoidRamp', value=1.0, end=80),
    )
    # scripts/ONE_ResNet32.sh
    assert config.train_cfg.max_epochs == 300
    assert config.train_dataloader.batch_size == 128
    assert config.param_scheduler.milestones == [151, 225]
    optimizer = dict(SCHEDULE, lr=0.1, weight_decay=1e-4)
    assert config.optim_wrapper == dict(optimizer=optimizer)
    other = load('one_r18_cifar100.py')
    assert other.model.student == load('kd_r34_r18_cifar100.py').resnet18
    assert other.model.branch_from == 'backbone.layer4'
    other.model.student = config.model.student
    other.model.branch_from = config.model.branch_from
    other.optim_wrapper.optimizer.weight_decay = 1e-4
    assert other.to_dict() == config.to_dict()


@pytest.mark.parametrize('name', LARGE)
def test_maps_of_cub_images(name):
    model = load('kd_r32x4_mv2_cub200.py').networks[name]
    model = copy.deepcopy(network(model, 'teacher'))
    # Shapes alone: the device computes nothing.
    model.to('meta')
    model.eval()
    images = torch.empty(1, 3, 224, 224, device='meta')
    maps = model.backbone(images)
    assert [m.shape[2:] for m in maps] == [(LARGE[name][1],) * 2]
    assert model(images).shape == (1, 200)


@pytest.mark.parametrize('method', METHODS)
def test_a_step(method):
    # A map of 2x2 for the student, of 8x8 for the teacher.
    config = load(f'{method}_r32x4_mv2_cifar100.py')
    torch.manual_seed(0)
    config.model.pop('teacher_ckpt')
    for role in ('teacher', 'student'):
        config.model[role] = copy.deepcopy(network(config.model[role], role))
    model = MODELS.build(config.model)
    batch = dict(
        inputs=torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8),
        sample_idx=torch.arange(4),
        gt_label=torch.tensor([3, 99, 0, 41]),
    )
    found = []
    for epoch in (0, 9, 19, 20):
        model.distiller.set_progress(epoch=epoch)
        # The same numbers in every epoch.
        model.data_preprocessor.augments = []
        inputs = model.data_preprocessor(batch, training=True)
        model.eval()
        found.append(model(**inputs, mode='loss'))
    total = sum(v for k, v in found[0].items() if 'loss' in k)
    total.backward()
    grads = [p.grad for p in model.student.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)

    (name,) = config.model.distiller.distill_losses
    losses = [terms[f'distill.{name}'].item() for terms in found]
    assert losses[-1] > 0
    shares = (
        [1, 1, 1, 1]
        if method.endswith('_kd') or method == 'kd'
        else [
            0.05,
            0.5,
            1,
            1,
        ]
    )
    assert losses == pytest.approx([s * losses[-1] for s in shares], rel=1e-5)
    if method.startswith('sdd'):
        # The two terms that are logged beside it.
        assert losses[-1] == pytest.approx(
            sum(
                found[-1][f'distill.sdd_{term}'].item()
                for term in ('consistent', 'complementary')
            ),
            rel=1e-5,
        )


def _image(path, rgb, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), rgb[::-1], dtype=np.uint8)
    mmcv.imwrite(pixels, str(path))


def _batches(config, root):
    for split in ('train', 'val'):
        loader = config[f'{split}_dataloader']
        loader.dataset.data_root = str(root)
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        (data,) = Runner.build_dataloader(loader, seed=0)
        preprocessor = MODELS.build(config.model.data_preprocessor)
        yield preprocessor(data, training=split == 'train')


def _check(batch, rgb):
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    color = ((torch.tensor(rgb) - mean) / std)[None, :, None, None]
    images = batch['inputs']
    assert images.shape == (2, 3, 224, 224)
    assert torch.allclose(images, color.expand_as(images), atol=1e-5)
    return [int(sample.gt_label) for sample in batch['data_samples']]


RGB = (200, 40, 90)


def test_cub_images(tmp_path):
    # As they come in the archive: two images of the last class for each
    # split.
    lines = {'images': '', 'image_class_labels': '', 'train_test_split': ''}
    for index in range(1, 5):
        name = f'200.Common_Yellowthroat/{index}.png'
        _image(tmp_path / 'images' / name, RGB, (90 + index, 300))
        lines['images'] += f'{index} {name}\n'
        lines['image_class_labels'] += f'{index} 200\n'
        lines['train_test_split'] += f'{index} {index % 2}\n'
    for name, text in lines.items():
        (tmp_path / f'{name}.txt').write_text(text)
    config = load('sdd_kd_vgg13_vgg8_cub200.py')
    for batch in _batches(config, tmp_path):
        assert _check(batch, RGB) == [199, 199]


def test_imagenet_images(tmp_path):
    for split in ('train', 'val'):
        for index, name in enumerate(('n01440764', 'n01443537')):
            folder = tmp_path / split / name
            _image(folder / f'{index}.png', RGB, (300, 400))
    config = load('sdd_kd_r34_r18_imagenet.py')
    for name in ('train_dataloader', 'val_dataloader'):
        # Not a thousand folders.
        config[name].dataset.metainfo = dict(classes=('tench', 'goldfish'))
    for batch in _batches(config, tmp_path):
        assert sorted(_check(batch, RGB)) == [0, 1]


def test_imagenet_teacher_is_named_alike():
    config = load('kd_r34_r18_imagenet.py')
    (need,) = [
        item
        for item in config.required_inputs
        if item['key'] == 'model.teacher_ckpt'
    ]
    path = config.model.teacher_ckpt
    assert f'-o {path} ' in need['make']
    assert need['make'].endswith(path.rpartition('/')[2])


def test_eeikd_defaults():
    config = load('eeikd_r34_r18_cifar100.py')
    losses = config.model.distiller.distill_losses
    assert losses.loss_kl.tau == losses.loss_relation.tau == 4.0
    assert config.model.distiller.connectors.mask.drop_ratio == 0.5
    assert config.train_dataloader.sampler.num_samples == 150_000
    assert config.train_dataloader.sampler.gamma == 0.5
    # DFND's budget and its steps at 40 % and 80 %.
    epochs = config.train_cfg.max_epochs
    assert epochs == 40_000 * 512 // 150_000
    assert config.param_scheduler.milestones == [
        round(0.4 * epochs),
        round(0.8 * epochs),
    ]


def test_sdd_eeikd_is_eeikd_but_for_the_logits():
    plain = load('eeikd_r34_r18_cifar100.py')
    config = load('sdd_eeikd_r34_r18_cifar100.py')
    ours, theirs = config.model.distiller, plain.model.distiller
    assert ours.distill_losses.pop('loss_sdd') == dict(
        type='SDDLoss',
        base_loss=theirs.distill_losses.pop('loss_kl'),
        weight_rule='teacher_global',
        teacher_connector=theirs.connectors.mask,
    )
    mapping = ours.loss_forward_mappings.pop('loss_sdd')
    # No labels.
    assert set(mapping) == {'preds_S', 'preds_T'}
    theirs.loss_forward_mappings.pop('loss_kl')
    for side in ('student_recorders', 'teacher_recorders'):
        assert ours[side].pop('maps').type == 'LogitMapOutputs'
    assert ours == theirs
    assert config.model == plain.model
    theirs, ours = (c.train_dataloader.sampler.copy() for c in (plain, config))
    assert ours.pop('cache_file') != theirs.pop('cache_file')
    assert ours == theirs


def test_kd_weights():
    config = load('kd_r34_r18_cifar100.py')
    assert config.model.distiller.distill_losses.loss_kl.loss_weight == 0.9
    assert config.model.student.head.loss.loss_weight == 0.1
    # The teacher's head is not weighted down along with it.
    assert 'loss' not in config.model.teacher.head


def hook_of(config):
    return config.default_hooks.mosaic


@pytest.mark.parametrize(('pair', 'ood'), MOSAIC)
def test_mosaickd(pair, ood):
    config = load(f'mosaickd_{pair}_cifar100_ood-{ood}.py')
    stem = 'resnet34' if pair == 'r34_r18' else 'wrn40_2'
    theirs = load(f'teachers/{stem}_cifar100.py')
    assert config.model.teacher_ckpt == (
        f'work_dirs/{stem}_cifar100/epoch_{theirs.train_cfg.max_epochs}.pth'
    )
    preprocessor = theirs.model.pop('data_preprocessor')
    if ood == 'svhn':
        preprocessor.augments = []
    assert config.model.data_preprocessor == preprocessor
    assert config.model.teacher == theirs.model
    for role, count in zip(
        ('teacher', 'student'), MOSAIC_PAIRS[pair], strict=True
    ):
        net = network(config.model[role], role)
        assert sum(p.numel() for p in net.parameters()) == count

    dataset = config.train_dataloader.dataset
    sampler = config.train_dataloader.sampler
    assert not dataset.get('with_label', False)
    if ood in ('cifar10', 'svhn'):
        assert sampler == dict(type='DefaultSampler', shuffle=True)
    else:
        # As many as the teacher's training set has.
        assert sampler == dict(
            type='EntropySubsetSampler',
            num_samples=50_000,
            cache_file=f'work_dirs/{stem}_cifar100/scores_{ood}.npz',
        )
    assert DATASETS.get(dataset.type) and DATA_SAMPLERS.get(sampler.type)
    assert config.trained_on == f'synthetic images and {OUT_OF_DOMAIN[ood]}'


@pytest.mark.parametrize(('pair', 'ood'), MOSAIC)
def test_course_of_mosaickd(pair, ood):
    config = load(f'mosaickd_{pair}_cifar100_ood-{ood}.py')
    # 200 published epochs, in each of which the student sees all of the
    # images five times.
    assert config.train_cfg == dict(
        by_epoch=True, max_epochs=1000, val_interval=5
    )
    assert config.default_hooks.checkpoint.interval == 5
    assert config.train_dataloader.batch_size == 256
    assert config.train_dataloader.drop_last is True
    assert config.auto_scale_lr.base_batch_size == 256
    assert config.optim_wrapper == dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
    )
    # Without a length: that of the run.
    assert config.param_scheduler == dict(
        type='CosineAnnealingLR', convert_to_iter_based=True
    )
    assert config.model.distiller.distill_losses == dict(
        loss_kl=dict(type='KLDivergence', tau=1.0)
    )
    adam = dict(type='Adam', lr=1e-3, betas=(0.5, 0.999))
    assert hook_of(config) == dict(
        type='MosaicGeneratorHook',
        generator=dict(
            type='MosaicGenerator',
            latent_dim=100,
            base_channels=64,
            image_size=32,
        ),
        discriminator=dict(
            type='PatchDiscriminator', base_channels=128, patch_size=10
        ),
        generator_optimizer=adam,
        discriminator_optimizer=adam,
        student_steps=5,
        picture_interval=5,
    )


DOWNLOAD = (
    'python -c "from torchvision.datasets import {0}; {0}({1}, download=True)"'
)
PACK = 'python tools/pack_dataset.py {} --size 32 --out {}'
TRAIN_DATA = 'train_dataloader.dataset'
COMMANDS = dict(
    cifar10=(
        f'{TRAIN_DATA}.dataset.data_root',
        'data/cifar10',
        DOWNLOAD.format('CIFAR10', "'data/cifar10'"),
    ),
    imagenet32=(
        f'{TRAIN_DATA}.data_file',
        'data/imagenet32.npz',
        'mkdir -p data && '
        + PACK.format('IMAGENET_TRAIN_FOLDER', 'data/imagenet32.npz'),
    ),
    places365=(
        f'{TRAIN_DATA}.data_file',
        'data/places365_32.npz',
        DOWNLOAD.format('Places365', "'data/places365', small=True")
        + ' && '
        + PACK.format(
            'data/places365/data_256_standard', 'data/places365_32.npz'
        ),
    ),
    svhn=(
        f'{TRAIN_DATA}.data_root',
        'data/svhn',
        DOWNLOAD.format('SVHN', "'data/svhn', 'train'"),
    ),
)


@pytest.mark.parametrize(('pair', 'ood'), MOSAIC)
def test_inputs_of_mosaickd(pair, ood, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(f'mosaickd_{pair}_cifar100_ood-{ood}.py')
    teacher, images, cifar = missing_inputs(config)
    stem = 'resnet34' if pair == 'r34_r18' else 'wrn40_2'
    assert teacher.startswith(f"model.teacher_ckpt = 'work_dirs/{stem}_")
    assert teacher.endswith(
        f'make it with: python tools/train.py '
        f'configs/teachers/{stem}_cifar100.py'
    )
    key, path, command = COMMANDS[ood]
    assert images.startswith(f'{key} = {path!r}')
    assert images.endswith(f'make it with: {command}')
    assert "CIFAR100('data/cifar100', download=True)" in cifar


def test_one_option_of_mosaickd_is_another():
    main = load(f'{MOSAIC_MAIN}.py')
    image_d = load(f'{MOSAIC_MAIN}_image-d.py')
    assert hook_of(image_d).discriminator == dict(
        type='PatchDiscriminator',
        base_channels=128,
        patch_size='image',
        image_size=32,
    )
    hook_of(image_d).discriminator = hook_of(main).discriminator
    assert image_d.to_dict() == main.to_dict()

    synthetic = load(f'{MOSAIC_MAIN}_synthetic-only.py')
    assert hook_of(synthetic).pop('student_images') == 'synthetic'
    assert synthetic.trained_on == 'synthetic images'
    synthetic.trained_on = main.trained_on
    assert synthetic.to_dict() == main.to_dict()


def test_sdd_in_mosaickd():
    main = load(f'{MOSAIC_MAIN}.py')
    config = load(MOSAIC_MAIN.replace('mosaickd', 'mosaickd_sdd') + '.py')
    ours, theirs = config.model.distiller, main.model.distiller
    assert ours.distill_losses == dict(
        loss_sdd=dict(
            type='SDDLoss',
            base_loss=theirs.distill_losses.loss_kl,
            weight_rule='teacher_global',
        )
    )
    maps = dict(maps=dict(type='LogitMapOutputs', grid_size=4))
    assert ours.student_recorders == ours.teacher_recorders == maps
    # No labels.
    assert set(ours.loss_forward_mappings.loss_sdd) == {'preds_S', 'preds_T'}
    config.model.distiller = theirs
    config.pop('_maps')
    assert config.to_dict() == main.to_dict()


def test_official_mosaickd():
    main = load(f'{MOSAIC_MAIN}.py')
    config = load(f'{MOSAIC_MAIN}_official.py')
    hook = hook_of(config)
    # Nothing else that compat='official' does not stand for is set.
    reals = hook.pop('real_dataloader')
    statistics = hook.pop('real_statistics')
    assert hook == dict(hook_of(main), compat='official', batch_size=256)
    # The same images and a batch of the last 80 of them.
    assert config.train_dataloader == dict(
        main.train_dataloader, drop_last=False
    )
    assert reals == config.train_dataloader
    # Those of CIFAR-10, for the student alone, in the teacher's units.
    assert {
        name: pytest.approx([255 * value for value in values])
        for name, values in dict(
            mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
        ).items()
    } == statistics
    assert config.model.data_preprocessor == main.model.data_preprocessor
    assert config.default_hooks.param_scheduler == dict(
        type='IntervalParamSchedulerHook', interval=5
    )
    batches = math.ceil(50_000 / 256)
    assert batches * config.train_cfg.max_epochs == 196_000
    assert config.param_scheduler == dict(
        type='CosineAnnealingLR', by_epoch=False, T_max=196_000 // 5
    )


def test_images_of_the_official_discriminator_are_looked_for(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = load(f'{MOSAIC_MAIN}_official.py')
    # Found for the student, not for the discriminator.
    (tmp_path / 'elsewhere/cifar-10-batches-py').mkdir(parents=True)
    config.train_dataloader.dataset.dataset.data_root = 'elsewhere'
    problems = missing_inputs(config)
    assert len(problems) == 3
    assert problems[-1].startswith(
        'default_hooks.mosaic.real_dataloader.dataset.dataset.data_root = '
        "'data/cifar10'"
    )
    hook_of(config).real_dataloader.dataset.dataset.data_root = 'elsewhere'
    assert len(missing_inputs(config)) == 2


@pytest.mark.parametrize('pair', ['r34_r18', 'wrn402_wrn161'])
def test_baseline_of_mosaickd(pair):
    config = load(f'kd_{pair}_cifar100_ood-cifar10.py')
    mosaic = load(f'mosaickd_{pair}_cifar100_ood-cifar10.py')
    assert config.model.distiller.distill_losses == dict(
        loss_kl=dict(type='KLDivergence', tau=5.0)
    )
    assert config.train_dataloader.batch_size == 128
    assert config.auto_scale_lr.base_batch_size == 128
    assert config.train_cfg == dict(
        by_epoch=True, max_epochs=200, val_interval=1
    )
    assert config.trained_on == 'CIFAR-10 without labels'
    # The rest is that of MosaicKD.
    config.model.distiller = mosaic.model.distiller
    config.train_dataloader.batch_size = 256
    for name in (
        'model',
        'train_dataloader',
        'val_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'required_inputs',
    ):
        assert config[name] == mosaic[name]
    assert config.custom_hooks == mosaic.custom_hooks


def test_custom_mosaickd():
    config = load('mosaickd_custom_r18_folder.py')
    hook = hook_of(config)
    assert hook.generator.image_size == 64
    assert hook.discriminator.patch_size == 22
    players = MosaicPlayers(
        hook.generator, hook.discriminator, mean=[0] * 3, std=[1] * 3
    )
    # From maps of 8x8.
    assert players.generator.num_upsamples == 3
    assert players.discriminator.receptive_field == 22
    # The images of both, and those of the evaluation, have one size.
    crop = config.model.data_preprocessor.augments[0]
    assert crop.crop_size == 64
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.pipeline[2].crop_size == 64


class Rates(Hook):
    """Notes the learning rates of each iteration, and what is in it."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.student = []
        self.images = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.student += runner.optim_wrapper.get_lr()['lr'][:1]
        self.images.append(
            (len(data_batch['synthetic']), len(data_batch['inputs']))
        )


@pytest.mark.parametrize('official', [False, True])
def test_run_of_mosaickd(official, tmp_path):
    config = load(f'{MOSAIC_MAIN}{"_official" if official else ""}.py')
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    images = ArrayImages(images)
    config.train_dataloader.batch_size = 4
    hook = HOOKS.build(hook_of(config))
    if official:
        hook.batch_size = 4
        hook.real_dataloader.batch_size = 4
        # A runner takes built data sets as well; a Config does not.
        hook.real_dataloader = dict(hook.real_dataloader, dataset=images)
        config.param_scheduler.T_max = 3
    # The small one for both.
    config.model.pop('teacher_ckpt')
    for role in ('teacher', 'student'):
        net = network(config.model.student, role)
        config.model[role] = copy.deepcopy(net)
    rates = Rates()
    runner = Runner(
        model=MODELS.build(config.model),
        work_dir=str(tmp_path),
        experiment_name=f'mosaickd_{official}',
        train_dataloader=dict(config.train_dataloader, dataset=images),
        train_cfg=dict(by_epoch=True, max_epochs=5),
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        default_hooks=dict(config.default_hooks, mosaic=hook, checkpoint=None),
        custom_hooks=[rates],
        default_scope=config.default_scope,
        log_level='ERROR',
        randomness=dict(seed=3),
    )
    runner.train()

    def course(step, length):
        return 0.05 * (1 + math.cos(math.pi * step / length))

    if official:
        # A third of the batches has two images.
        assert rates.images == [(4, 4), (4, 4), (4, 2)] * 5
        wanted = [course(i // 5, 3) for i in range(15)]
    else:
        assert rates.images == [(4, 4)] * 10
        wanted = [course(i, 10) for i in range(10)]
    assert rates.student == pytest.approx(wanted, rel=1e-9)
    # All updates are over.
    for optimizer in hook.players.optimizers.values():
        assert optimizer.param_groups[0]['lr'] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize('classes', [10, 100])
def test_cifar_configs_keep_to_their_data(classes):
    config = load(f'eeikd_r34_r18_cifar{classes}.py')
    other = 110 - classes
    assert f"cifar{other}'" not in str(config.to_dict()).lower()
    for name in ('val_dataloader', 'test_dataloader'):
        dataset = config[name].dataset.dataset
        assert dataset.type == f'CIFAR{classes}'
        assert dataset.data_root == f'data/cifar{classes}'
    for role in ('teacher', 'student'):
        assert config.model[role].head.num_classes == classes


def test_demo_differs_in_the_loss_only():
    kd = load('demo/kd_random_digits.py')
    sdd = load('demo/sdd_kd_random_digits.py')
    # The last map is 2x2.
    assert sdd.model.distiller.distill_losses == dict(
        loss_sdd=dict(
            type='SDDLoss',
            base_loss=kd.model.distiller.distill_losses.loss_kl,
            scales=(1, 2),
            weight_rule='teacher_global',
        )
    )
    for config in (kd, sdd):
        config.model.pop('distiller')
        # Variables of the files.
        for name in ('distiller', '_maps'):
            config.pop(name, None)
    assert kd.to_dict() == sdd.to_dict()
