"""The published experiment with knowledge points, one family a network."""

import copy
import functools
import json
from pathlib import Path
from urllib.parse import urlsplit

import mmpretrain
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import ExponentialLR, ReduceOnPlateauLR
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmkd_plugin.engine.preflight import missing_inputs
from mmkd_plugin.explain import Experiment
from mmkd_plugin.models.recorders.module_recorder import find_module

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
ROLES = ('teacher', 'baseline', 'student', 'classifier')
# Network, data and number of classes.
FAMILIES = {
    'kp_vgg16_cub200': ('vgg16', 'cub200', 200),
    'kp_r18_cub200': ('r18', 'cub200', 200),
    'kp_r50_cub200': ('r50', 'cub200', 200),
    'kp_vgg16_voc2012': ('vgg16', 'voc2012', 20),
    'kp_r50_voc2012': ('r50', 'voc2012', 20),
    'kp_r18_det': ('r18', 'det', 200),
    'kp_custom_r18_folder': ('r18', 'folder', 10),
}
# One of each data set.
DATA = ('kp_r18_cub200', 'kp_r50_voc2012', 'kp_r18_det')
CUSTOM = 'kp_custom_r18_folder'
every_family = pytest.mark.parametrize('family', FAMILIES)


@functools.cache
def _loaded(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name):
    config = copy.deepcopy(_loaded(name))
    init_default_scope(config.default_scope)
    return config


def runs(family):
    return {role: load(f'{family}_{role}') for role in ROLES}


def test_families_are_whole():
    assert {path.stem for path in CONFIGS.glob('kp_*.py')} == {
        *FAMILIES,
        *(f'{family}_{role}' for family in FAMILIES for role in ROLES),
    }


@every_family
def test_runs_build_on_each_other(family):
    """What a run reads is what another one leaves."""
    found = runs(family)
    explain = load(family).explain
    epochs = {role: c.train_cfg.max_epochs for role, c in found.items()}
    assert epochs == dict(teacher=150, baseline=150, student=150) | dict(
        classifier=100
    )
    folders = {role: f'work_dirs/{family}_{role}' for role in ROLES}
    last = {
        role: f'{folder}/snapshots/epoch_{epochs[role]}.pth'
        for role, folder in folders.items()
    }
    last['teacher'] = f'{folders["teacher"]}/epoch_150.pth'

    reads = found['student'].model, found['classifier'].model, explain
    assert [model.get('teacher_ckpt') for model in reads] == [
        last['teacher'],
        None,
        last['teacher'],
    ]
    # The same start.
    start = f'{folders["baseline"]}/snapshots/epoch_0.pth'
    assert found['student'].model.student_ckpt == start
    assert found['classifier'].model.checkpoint == last['student']
    assert explain.student == [folders['student'], folders['classifier']]
    assert explain.baseline == folders['baseline']
    # Each after those that it builds on.
    assert [
        (item.config, f'{item.work_dir}/{item.makes}')
        for item in explain.trainings
    ] == [(f'configs/{family}_{role}.py', last[role]) for role in ROLES]


@every_family
def test_missing_inputs(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = runs(family)
    data = missing_inputs(found['baseline'])
    assert [line.split(' = ')[0] for line in data] == [
        'train_dataloader.dataset.data_root',
        'val_dataloader.dataset.data_root',
    ]
    needs = {
        'teacher': [('model.backbone.init_cfg.', 'curl')],
        'student': [
            ('model.teacher_ckpt', f'configs/{family}_teacher.py'),
            ('model.student_ckpt', f'configs/{family}_baseline.py'),
        ],
        'classifier': [('model.checkpoint', f'configs/{family}_student.py')],
    }
    for role, wanted in needs.items():
        problems = missing_inputs(found[role])
        assert problems[len(wanted) :] == data
        for problem, (key, command) in zip(problems, wanted, strict=False):
            assert problem.startswith(key)
            assert command in problem.split('make it with: ')[1]
            # Without, it goes to the folder that others look into.
            assert '--work-dir' not in problem
    explained = missing_inputs(load(family))
    assert all(line.startswith('explain.image_sets.') for line in explained)
    assert len(explained) == (2 if family.endswith('cub200') else 1)
    if family != CUSTOM:
        assert all('make it with: mkdir -p data' in p for p in explained)


@every_family
def test_one_network(family):
    net, _, classes = FAMILIES[family]
    found = runs(family)
    network = found['baseline'].model.to_dict()
    part = 'backbone' if net == 'vgg16' else 'head'
    assert network[part]['num_classes'] == classes
    assert network['data_preprocessor'] == found['baseline'].preprocessor
    assert load(family).explain.model == network
    model = found['teacher'].model.to_dict()
    assert model['backbone'].pop('init_cfg')
    assert model == network
    student = found['student'].model
    assert student.teacher == network
    assert student.data_preprocessor == network['data_preprocessor']
    student = student.student.to_dict()
    classifier = found['classifier'].model.to_dict()
    assert classifier.pop('checkpoint')
    for model in (network, student, classifier):
        model.pop('type')
        model.pop('frozen', None)
    assert student == classifier == network


@pytest.mark.parametrize('family', ['kp_vgg16_cub200', 'kp_r18_cub200'])
def test_what_learns(family):
    found = runs(family)
    found['classifier'].model.pop('checkpoint')
    models = dict(
        {role: found[role].model for role in ROLES},
        student=found['student'].model.student,
    )
    # mmpretrain's ResNet cannot be built without memory, VGG need not have it.
    with torch.device('meta' if 'vgg' in family else 'cpu'):
        models = {role: MODELS.build(m).train() for role, m in models.items()}
    shapes = {
        role: {name: value.shape for name, value in m.state_dict().items()}
        for role, m in models.items()
    }
    assert len({str(shape) for shape in shapes.values()}) == 1
    learns = {
        role: {n for n, p in m.named_parameters() if p.requires_grad}
        for role, m in models.items()
    }
    everything = learns['baseline']
    assert (
        learns['teacher']
        == everything
        == set(shapes['baseline'])
        - {name for name, _ in models['baseline'].named_buffers()}
    )
    # The two phases share them out: all up to the layer, then the rest.
    assert learns['student'] | learns['classifier'] == everything
    assert not learns['student'] & learns['classifier']
    order = list(models['baseline'].state_dict())
    layer = load(family).explain.protocol.layer
    ends = max(i for i, name in enumerate(order) if name.startswith(layer))
    assert learns['student'] == everything & set(order[: ends + 1])
    # It is these whose path is measured.
    parameters = found['student'].custom_hooks[-2].parameters
    assert learns['student'] == {
        name for name in everything if name.startswith(tuple(parameters))
    }
    for model in models.values():
        for module in model.modules():
            assert not (isinstance(module, nn.Dropout) and module.training)
    if 'vgg' in family:
        convs = [
            name
            for name, module in models['baseline'].named_modules()
            if isinstance(module, nn.Conv2d)
        ]
        assert len(convs) == 13 and convs[-1] == layer
        # VGG-16's 138,357,544 with 200 instead of 1000 classes.
        count = sum(p.numel() for p in models['baseline'].parameters())
        assert count == 138_357_544 - 800 * 4097


@every_family
def test_features_are_all_that_the_first_phase_learns(family):
    config = load(f'{family}_student')
    protocol = load(family).explain.protocol
    distiller = config.model.distiller
    assert config.model.calculate_student_loss is False
    assert distiller.distill_losses == dict(loss_features=dict(type='MSELoss'))
    for side in ('student_recorders', 'teacher_recorders'):
        assert distiller[side] == dict(
            features=dict(type='ModuleOutputs', source=protocol.layer)
        )
    assert config.trained_on.endswith(' without labels')


@every_family
def test_courses_can_be_put_together(family):
    found = runs(family)
    hooks = {role: found[role].custom_hooks for role in ROLES}
    assert hooks['teacher'] == hooks['baseline'][:-2]
    assert hooks['baseline'] == hooks['student']
    assert hooks['baseline'][:-1] == hooks['classifier'][:-1]
    distance, snapshots = hooks['baseline'][-2:]
    assert distance.type == 'WeightDistanceHook'
    assert distance.granularity == 'step'
    # In mmengine's way the list is replaced as a whole.
    assert dict(type='DistillReportHook') in hooks['teacher']
    epochs = HOOKS.build(snapshots).epochs
    assert [e for e in epochs if e <= 150] == [
        *(0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 70, 90, 110, 130, 150)
    ]
    assert HOOKS.build(hooks['classifier'][-1]).epochs == (0,)


@every_family
def test_schedule(family):
    found = runs(family)
    rates = {
        role: config.optim_wrapper.optimizer.pop('lr')
        for role, config in found.items()
    }
    if FAMILIES[family][0] == 'vgg16':
        wanted = dict(teacher=1e-3, baseline=1e-2, student=1e-2)
        wanted['classifier'] = 1e-3
    else:
        wanted = dict(teacher=1e-2, baseline=0.1, student=0.1)
        wanted['classifier'] = 1e-2
    assert rates == wanted
    for config in found.values():
        assert config.optim_wrapper == dict(
            optimizer=dict(type='SGD', momentum=0.9, weight_decay=1e-4)
        )
        assert config.train_dataloader.batch_size == 64
        assert config.default_hooks.checkpoint.save_best is None
    schedules = {role: c.param_scheduler for role, c in found.items()}
    assert schedules['teacher'] == schedules['baseline']
    assert schedules['teacher'] == schedules['student']


def scheduled(config, kind):
    """Make an optimizer with a rate of 1 and the scheduler of a config."""
    (options,) = config.param_scheduler
    assert options.pop('type') == kind.__name__
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, kind(optimizer, **options)


def test_rates_fall_to_a_tenth():
    config = load('kp_r18_cub200_baseline')
    optimizer, scheduler = scheduled(config, ExponentialLR)
    (group,) = optimizer.param_groups
    rates = []
    for _ in range(150):
        rates.append(group['lr'])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, np.logspace(0, -1, 150))


def test_second_phase_waits_for_a_better_accuracy():
    config = load('kp_r18_cub200_classifier')
    assert config.train_cfg.val_interval == 1
    optimizer, scheduler = scheduled(config, ReduceOnPlateauLR)
    (group,) = optimizer.param_groups
    rates = []
    for accuracy in [10.0] + [20.0] * 12 + [20.1]:
        optimizer.step()
        scheduler.step({'accuracy/top1': accuracy})
        rates.append(group['lr'])
    # Eleven times no better.
    assert rates == [1.0] * 12 + [0.3] * 2


@every_family
def test_protocol(family):
    config = load(family)
    experiment = Experiment(config)
    values = experiment.protocol.as_dict()
    constants = values.pop('constants')
    vgg = FAMILIES[family][0] == 'vgg16'
    assert constants['lam'] == (7.0 if vgg else 6.0)
    assert constants['target'] == -2.8
    layer = 'backbone.features.16.conv' if vgg else 'backbone.layer4'
    assert values == dict(
        values,
        layer=layer,
        relu=True,
        grid=[16, 16],
        method='flow',
        b=0.2,
        reference='background_dataset',
        released_filter=False,
    )
    assert experiment.num_images == 500
    images = 'masked' if family == CUSTOM else 'train'
    assert experiment.images == images
    dataset = experiment.image_sets[images]
    assert dataset.pipeline == experiment.folder_pipeline


def test_layers_exist():
    for family in ('kp_r18_cub200', 'kp_r50_cub200'):
        model = MODELS.build(load(family).model.backbone)
        layer = load(family).explain.protocol.layer
        last = find_module(model, layer.removeprefix('backbone.'))
        assert last is list(model.children())[-1]


@pytest.mark.parametrize('family', [*FAMILIES][:3])
def test_weights_of_the_teacher_are_known(family, tmp_path):
    config = load(f'{family}_teacher')
    backbone = config.model.backbone
    pretrained = backbone.init_cfg.get('override', backbone.init_cfg)
    (need,) = (i for i in config.required_inputs if 'init_cfg' in i.key)
    url = need.make.split()[-1]
    assert Path(url).name == Path(pretrained.checkpoint).name
    files = Path(mmpretrain.__file__).parent.glob('.mim/configs/*/metafile*')
    texts = [file.read_text(encoding='utf-8') for file in files]
    if not texts:
        pytest.skip('mmpretrain is installed without its metafiles')
    # The families of the packages have hosts of their own.
    path = urlsplit(url).path
    assert any(f'{path}\n' in text for text in texts)

    # Linear layers of VGG take much time, and are not read: their shapes would
    # not fit.
    backbone.pop('num_classes', None)
    theirs = MODELS.build(dict(backbone, init_cfg=None))
    weights = {
        f'backbone.{name}': torch.full_like(value, 0.5)
        for name, value in theirs.state_dict().items()
    }
    weights['backbone.classifier.0.weight'] = torch.zeros(3)
    pretrained.checkpoint = str(tmp_path / 'imagenet.pth')
    torch.save(dict(state_dict=weights), pretrained.checkpoint)
    ours = MODELS.build(backbone)
    ours.init_weights()
    for value in ours.state_dict().values():
        assert (value == torch.full_like(value, 0.5)).all()


@pytest.mark.parametrize('family', [*DATA, CUSTOM])
def test_networks_are_explained_on_what_they_were_trained_on(family, tmp_path):
    config = load(family)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (100, 200, 3), dtype=np.uint8)
    # As a camera would have it that was held upright.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / 'a.png', exif=exif)
    box = [80, 20, 140, 80]
    item = dict(
        img_path=str(tmp_path / 'a.png'),
        gt_label=3,
        object_box=box,
        foreground=dict(boxes=[box]),
        name='a#1',
    )
    trained, evaluated, explained = (
        Compose(pipeline)(copy.deepcopy(item))
        for pipeline in (
            config.train_dataloader.dataset.pipeline,
            config.val_dataloader.dataset.pipeline,
            config.explain.folder_pipeline,
        )
    )
    assert trained['inputs'].shape == (3, 224, 224)
    for other in (evaluated, explained):
        assert torch.equal(trained['inputs'], other['inputs'])
    assert explained['data_samples'].name == 'a#1'
    mask = explained['data_samples'].gt_seg_map
    # The share of the box in what is left of the image.
    scale = dict(voc2012=1.2, det=1.5).get(FAMILIES[family][1])
    shares = (0.6, 0.3) if scale is None else (1 / scale, 1 / scale)
    rows, cols = mask.any(1), mask.any(0)
    assert rows.sum() == pytest.approx(224 * shares[0], abs=3)
    assert cols.sum() == pytest.approx(224 * shares[1], abs=3)
    assert mask.sum() == rows.sum() * cols.sum()


def test_labels_are_those_of_the_classes():
    config = load('kp_r18_det_baseline')
    assert config.classes is None and config.num_classes == 200
    train, val = (
        config[f'{split}_dataloader'].dataset for split in ('train', 'val')
    )
    assert train.classes is None and val.classes is None
    assert (train.ann_dir, val.ann_dir) == (
        'Annotations/DET/train/ILSVRC2013_train',
        'Annotations/DET/val',
    )


def make_birds(root, num=24, side=64):
    """Make noise in the layout of CUB: four classes, some images to test."""
    rng = np.random.default_rng(0)
    numbers = range(1, num + 1)
    names = [f'{i % 4 + 1:03}.Bird/bird_{i:04}.jpg' for i in numbers]
    rows = dict(
        images=names,
        image_class_labels=[i % 4 + 1 for i in numbers],
        train_test_split=[int(i <= num - 4) for i in numbers],
        bounding_boxes=['16.0 8.0 32.0 40.0'] * num,
    )
    for name, values in rows.items():
        lines = [f'{i} {value}\n' for i, value in enumerate(values, 1)]
        (root / f'{name}.txt').write_text(''.join(lines))
    outline = np.zeros((side, side), np.uint8)
    outline[8:48, 16:48] = 255
    for name in names:
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        mask = (root / 'segmentations' / name).with_suffix('.png')
        for path, values in (
            (root / 'images' / name, pixels),
            (mask, outline),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


def test_first_phase_runs(tmp_path):
    """As published, but for the size of things."""
    data = tmp_path / 'data'
    data.mkdir()
    make_birds(data)
    config = load('kp_r18_cub200_student').to_dict()
    # Its text is written in many places, which takes longer than the run.
    config = Config(config, format_python_code=False)
    start = {}
    for seed, network in enumerate(('teacher', 'student')):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MODELS.build(config.model[network].to_dict())
            model.init_weights()
        start[network] = model.state_dict()
        path = tmp_path / f'{network}.pth'
        torch.save(dict(state_dict=start[network]), path)
        config.model[f'{network}_ckpt'] = str(path)
    config.work_dir = str(tmp_path / 'run')
    config.log_level = 'ERROR'
    config.train_cfg.max_epochs = 1
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data)
        (resize,) = (
            step for step in loader.dataset.pipeline if step.type == 'Resize'
        )
        resize.scale = (64, 64)
    assert missing_inputs(config) == []
    runner = Runner.from_cfg(config)
    runner.train()

    assert runner.iter == 5
    (scalars,) = tmp_path.glob('run/*/vis_data/scalars.json')
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [row for row in rows if 'loss' in row]
    assert losses
    for row in losses:
        assert 0 < row['loss'] < np.inf
        # The features, and nothing else.
        assert row['loss'] == pytest.approx(row['distill.loss_features'])
        assert sum('loss' in key for key in row) == 2
    snapshots = [
        torch.load(tmp_path / 'run' / 'snapshots' / f'epoch_{epoch}.pth')
        for epoch in (0, 1)
    ]
    before, after = (snapshot['state_dict'] for snapshot in snapshots)
    assert before.keys() == after.keys() == start['student'].keys()
    for name, value in before.items():
        assert torch.equal(value, start['student'][name])
        moved = not torch.equal(value, after[name])
        assert moved == name.startswith('backbone.'), name
    for name, value in runner.model.teacher.state_dict().items():
        assert torch.equal(value, start['teacher'][name])

    content = (tmp_path / 'run' / 'weight_distance.json').read_text()
    path = json.loads(content)['epochs']
    assert [(row['epoch'], row['iteration']) for row in path] == [
        (0, 0),
        (1, 5),
    ]
    names = [name for name, _ in runner.model.student.named_parameters()]
    squares = sum(
        (after[name] - before[name]).double().square().sum() for name in names
    )
    # Five steps are not shorter than the straight line.
    assert path[0]['path_length'] == 0
    assert path[1]['path_length'] > squares.sqrt().item() * (1 - 1e-6) > 0
