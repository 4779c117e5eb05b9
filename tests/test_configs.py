"""Every shipped config builds, and says what the docs say."""

import copy
import functools
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmkd_plugin.engine.preflight import missing_inputs
from mmkd_plugin.models import SingleTeacherDistill

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.as_posix() and path.stem[0] != '_'
)
# Types of data sets that come with labels.
LABELED = {'CIFAR10', 'CIFAR100', 'CUB', 'ImageNet'}

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
    return MODELS.build(Config.fromstring(text, '.py').network)


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
    }


@pytest.mark.parametrize('name', ALL)
def test_config_builds(name):
    config = load(name)
    assert config.trained_on
    if config.model.type != 'SingleTeacherDistill':
        network(config.model, 'teacher')
        return
    assert config.model.pop('teacher_ckpt')
    for role in ('teacher', 'student'):
        config.model[role] = network(config.model[role], role)
    # Here recorders are attached to both networks.
    model = MODELS.build(config.model)
    assert isinstance(model, SingleTeacherDistill)
    # Labels are used where there are some, and only there.
    dataset = config.train_dataloader.dataset
    labeled = dataset.get('dataset', dataset).type in LABELED
    assert model.calculate_student_loss is labeled
    labels_asked_for = 'gt_label' in str(config.model.distiller)
    assert labeled or not labels_asked_for


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
