"""Several students from training to export, by the tools."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from yapf.yapflib import yapf_api

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / 'configs' / '_base_' / 'default_runtime.py'
# Digits of 16x16, cut to 8x8.
CONFIG = f"""
_base_ = [{str(RUNTIME)!r}]
_nets = [
    dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=width,
            base_channels=width,
            num_stages=1,
            strides=(1,),
            dilations=(1,),
            out_indices=(0,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=width),
    )
    for width in (4, 6)
]
model = dict(
    type='DML',
    students=dict(thin=_nets[0], wide=_nets[1]),
    peer_loss=dict(
        type='KLDivergence',
        tau=2.0,
        loss_weight=dict(type='LinearWarmup', value=1.0, end=3),
    ),
    data_preprocessor=dict(
        type='BatchAugDataPreprocessor',
        views=2,
        mean=[78.0] * 3,
        std=[86.0] * 3,
        augments=[
            dict(type='BatchRandomCrop', crop_size=8, padding=1),
            dict(type='BatchRandomFlip'),
        ],
    ),
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='DemoDigits', split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
)
val_dataloader = dict(
    batch_size=300,
    num_workers=0,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='DemoDigits', split='test'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
val_cfg = dict(type='StudentsValLoop')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='StudentsTestLoop')
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(
    constructor='PerStudentOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
    clip_grad=dict(max_norm=2),
    students=dict(wide=dict(optimizer=dict(lr=0.04))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=4),
    dict(type='MultiStepLR', by_epoch=True, milestones=[2], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=64, enable=False)
trained_on = 'digits'
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends)
"""


def load_tool(name):
    spec = importlib.util.spec_from_file_location(
        f'{name}_online', ROOT / 'tools' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name, *arguments):
    """Call a tool with a command line, in this process."""
    format_code = yapf_api.FormatCode
    texts = {}

    def format_once(text, **style):
        # The engine formats the config of a run for each of its checkpoints.
        if text not in texts:
            texts[text] = format_code(text, **style)
        return texts[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [name, *map(str, arguments)])
        # Tools set it.
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr(yapf_api, 'FormatCode', format_once)
        load_tool(name).main()


def train(config, folder, *flags, options=()):
    """Train; the engine knows runs by their names, and these by seconds."""
    options = [f'experiment_name={folder.name}', *options]
    call(
        'train',
        *(config, '--work-dir', folder, *flags),
        *('--cfg-options', *options),
    )


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'dml_toy.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
    """A run of three epochs."""
    folder = tmp_path_factory.mktemp('whole')
    train(config, folder)
    return folder


def state(path):
    """Everything of a checkpoint that the next step depends on."""
    saved = torch.load(path, weights_only=False)
    found = dict(saved['state_dict'])
    for name, optimizer in saved['optimizer'].items():
        for index, entry in optimizer['state'].items():
            found[f'{name} momentum {index}'] = entry['momentum_buffer']
        for key, value in optimizer['param_groups'][0].items():
            found[f'{name} {key}'] = torch.tensor(value or 0)
    for name, schedules in saved['param_schedulers'].items():
        for index, schedule in enumerate(schedules):
            for key in ('_global_step', 'last_step', '_last_value'):
                found[f'{name} schedule {index} {key}'] = torch.tensor(
                    schedule[key]
                )
    return found


def test_resumed_equals_uninterrupted(config, whole, tmp_path):
    # In the epoch that is left, the rate is a tenth of that before.
    train(config, tmp_path, '--resume', whole / 'epoch_2.pth')
    one, two = (state(f / 'epoch_3.pth') for f in (whole, tmp_path))
    assert one.keys() == two.keys()
    assert sum('momentum' in key for key in one) > 20
    for key, value in one.items():
        assert torch.equal(value, two[key]), key
    assert one['thin lr'].item() == pytest.approx(0.01)
    assert one['wide lr'].item() == pytest.approx(0.004)


def scalars(folder):
    """The lines that the logger has written."""
    (path,) = folder.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_log_has_every_student(whole):
    lines = [line for line in scalars(whole) if 'thin.lr' in line]
    # A warm-up of iterations, then the step of the last epoch.
    rates = [(line['thin.lr'], line['wide.lr']) for line in lines]
    pairs = ((0.1, 0.04), (0.1, 0.04), (0.01, 0.004))
    assert rates == [pytest.approx(pair) for pair in pairs]
    for line in lines:
        parts = [
            line[f'{name}.{kind}']
            for name in ('thin', 'wide')
            for kind in ('loss', 'distill.loss_peer')
        ]
        assert line['loss'] == pytest.approx(sum(parts), rel=1e-4)
        assert line['thin.grad_norm'] != line['wide.grad_norm']
        assert 'grad_norm' not in line
    text = next(whole.glob('*/*.log')).read_text()
    assert text.count('best student: ') == 3


def test_best_is_the_best_students(whole):
    metrics = [line for line in scalars(whole) if 'accuracy/top1' in line]
    assert len(metrics) == 3
    for line in metrics:
        both = [line[f'{name}/accuracy/top1'] for name in ('thin', 'wide')]
        assert line['accuracy/top1'] == max(both)
    best = max(range(3), key=lambda i: metrics[i]['accuracy/top1'])
    (path,) = whole.glob('best_accuracy_top1_epoch_*.pth')
    assert path.name == f'best_accuracy_top1_epoch_{best + 1}.pth'


def test_report_shows_every_student(whole):
    report = json.loads((whole / 'report' / 'report.json').read_text())
    student = report['student']
    assert student['architecture'] == '2 students'
    assert student['main'] == 'thin'
    last = [v for v in scalars(whole) if 'accuracy/top1' in v][-1]
    for about, name, width in zip(
        student['students'], ('thin', 'wide'), (4, 6), strict=True
    ):
        assert about['name'] == name
        assert about['architecture'] == 'ResNet_CIFAR-18'
        assert about['parameters'] > 30 * width
        key = 'accuracy/top1'
        assert about['last'][key] == pytest.approx(last[f'{name}/{key}'])
    assert {'wide.lr', 'wide.loss', 'thin.distill.loss_peer'} <= {
        name.removeprefix('train/') for name in report['curves']
    }
    page = (whole / 'report' / 'index.html').read_text()
    assert 'Last validation of student thin, ' in page
    assert f'<b>{whole.name}: wide</b>' in page


def test_report_tool(whole, tmp_path, capsys):
    call('report', whole, '--out', tmp_path / 'page.html')
    lines = capsys.readouterr().out.splitlines()
    names = [line.split('  ')[0].strip() for line in lines[2:5]]
    assert names == [whole.name, f'{whole.name}: thin', f'{whole.name}: wide']


def networks(config, path):
    """The students of a checkpoint."""
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(torch.load(path, weights_only=False)['state_dict'])
    return model.eval().students


@pytest.mark.parametrize('name', [None, 'thin', 'wide'])
def test_export(config, whole, tmp_path, capsys, name):
    source = whole / 'epoch_3.pth'
    chosen = () if name is None else ('--student', name)
    call('export_student', config, source, tmp_path / 'out.pth', *chosen)
    if name is None:
        hub = torch.load(source, weights_only=False)['message_hub']
        found = hub['runtime_info']['student_metrics']
        # A checkpoint is written before its epoch is validated, and again
        # after it if it is the best one so far. 7 iterations an epoch.
        assert found['iteration'] in (14, 21)
        epoch = found['iteration'] // 7
        line = [v for v in scalars(whole) if 'accuracy/top1' in v][epoch - 1]
        assert found['values'] == {
            n: pytest.approx(line[f'{n}/accuracy/top1'])
            for n in ('thin', 'wide')
        }
        name = max(found['values'], key=found['values'].get)
    assert f'student {name}\n' in capsys.readouterr().out
    exported = Config.fromfile(tmp_path / 'out.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(exported.model).eval()
    weights = torch.load(tmp_path / 'out.pth', weights_only=True)
    model.load_state_dict(weights['state_dict'])
    images = torch.randn(3, 3, 8, 8)
    expected = networks(config, source)[name](images, mode='tensor')
    assert torch.equal(model(images, mode='tensor'), expected)
    assert exported.model.data_preprocessor.type == 'ClsDataPreprocessor'


def test_tool_of_the_test(config, whole, tmp_path):
    found = {}
    for name in (None, 'thin', 'wide'):
        out = tmp_path / f'{name}.json'
        call(
            'test',
            config,
            whole / 'epoch_3.pth',
            *('--work-dir', tmp_path, '--out', out),
            *(() if name is None else ('--student', name)),
            # It need not be there any more.
            *('--cfg-options', 'model.student_ckpts.thin=gone.pth'),
        )
        found[name] = json.loads(out.read_text())
    last = [v for v in scalars(whole) if 'accuracy/top1' in v][-1]
    for name in ('thin', 'wide'):
        for key in ('accuracy/top1', 'accuracy/top5'):
            expected = pytest.approx(last[f'{name}/{key}'])
            assert found[name][key] == expected
            assert found[None][f'{name}/{key}'] == expected
    assert found[None]['accuracy/top1'] == pytest.approx(last['accuracy/top1'])


def test_scaled_learning_rates(config, tmp_path):
    options = ['train_cfg.max_epochs=1', 'param_scheduler=None']
    train(config, tmp_path, '--auto-scale-lr', options=options)
    (line,) = [line for line in scalars(tmp_path) if 'thin.lr' in line]
    # Batches of 128 for a base of 64.
    assert line['thin.lr'] == pytest.approx(0.2)
    assert line['wide.lr'] == pytest.approx(0.08)


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('test', ['--student', 'wid'], "no student 'wid'; nearest: wide"),
        ('export_student', ['--student', 'x'], "no student 'x'; known: thin"),
        (
            'train',
            ['--cfg-options', 'optim_wrapper.students.x.clip_grad=None'],
            "optim_wrapper.students: there is no student 'x'",
        ),
        (
            'train',
            ['--cfg-options', 'model.students.thin.head.num_classes=9'],
            "same number of classes, but got {'thin': 9, 'wide': 10}",
        ),
        (
            'train',
            ['--cfg-options', 'model.student_ckpts.thin=gone.pth'],
            'There is no checkpoint gone.pth',
        ),
        (
            'train',
            ['--cfg-options', 'model.type=KDCL', 'model.target=general'],
            "dict(type='ErrorCovarianceHook', dataloader=...)",
        ),
    ],
)
def test_errors_are_one_message(
    config, whole, tmp_path, monkeypatch, tool, arguments, message
):
    monkeypatch.chdir(tmp_path)
    more = {
        'test': [whole / 'epoch_3.pth'],
        'export_student': [whole / 'epoch_3.pth', 'out.pth'],
        'train': [],
    }
    with pytest.raises(SystemExit) as info:
        call(tool, config, *more[tool], *arguments)
    assert info.value.code.startswith('error: ')
    assert message in info.value.code
    assert not list(tmp_path.iterdir())


def test_checkpoint_that_does_not_tell(config, whole, tmp_path):
    path = tmp_path / 'weights.pth'
    weights = torch.load(whole / 'epoch_3.pth', weights_only=False)
    torch.save(dict(state_dict=weights['state_dict']), path)
    with pytest.raises(SystemExit) as info:
        call('export_student', config, path, tmp_path / 'out.pth')
    assert 'thin, wide is best: name one with --student' in info.value.code
