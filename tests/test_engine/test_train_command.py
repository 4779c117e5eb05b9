"""tools/train.py up to the point where the engine takes over."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
EEIKD = ROOT / 'configs' / 'demo' / 'eeikd_digits.py'


@pytest.fixture(scope='module')
def train():
    """The tool as a module."""
    spec = importlib.util.spec_from_file_location('train_tool', TRAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(train, tmp_path, monkeypatch):
    """Call it with these arguments, in an empty folder."""
    folder = tmp_path / 'here'
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.delenv('RANK', raising=False)
    started = []

    class Runner:
        @staticmethod
        def from_cfg(config):
            started.append(config)
            return Runner

        train = staticmethod(lambda: None)

    monkeypatch.setattr(train, 'Runner', Runner)

    def main(*arguments):
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments)])
        train.main()
        (config,) = started
        return config

    yield main
    # Whatever it was, it was found before anything was written.
    assert not list(folder.iterdir())
    os.environ.pop('LOCAL_RANK', None)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(EEIKD).model.teacher)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(model.state_dict(), path)
    return path


def error_of(call, *arguments):
    with pytest.raises(SystemExit) as exit_:
        call(*arguments)
    message = exit_.value.code
    assert isinstance(message, str)
    assert message.startswith('error: ')
    return message


def small(teacher, *more):
    return (
        EEIKD,
        '--cfg-options',
        f'model.teacher_ckpt={teacher}',
        'train_dataloader.dataset.num_images=8',
        *more,
    )


def test_process_ends_with_the_message(tmp_path):
    """As a user sees it."""
    done = subprocess.run(
        [
            sys.executable,
            str(TRAIN),
            str(EEIKD),
            '--cfg-options',
            'train_dataloader.sampler.gamma=1.5',
        ],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert 'error: 1 of the inputs are missing:' in done.stderr
    assert 'model.teacher_ckpt' in done.stderr
    assert 'python tools/train.py configs/demo/teacher_digits.py' in (
        done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_help(call, capsys):
    with pytest.raises(SystemExit) as exit_:
        call('--help')
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for option in (
        '--work-dir',
        '--resume',
        '--amp',
        '--auto-scale-lr',
        '--cfg-options',
        '--launcher',
        '--local-rank',
    ):
        assert option in shown


def test_no_such_config(call):
    assert 'nowhere.py' in error_of(call, 'nowhere.py')


def test_a_file_that_is_no_config(call, tmp_path):
    path = tmp_path / 'config.txt'
    path.write_text('model = dict()')
    assert 'py/yml/yaml/json' in error_of(call, path)


@pytest.mark.parametrize('gamma', ['0', '1', '1.5', '-0.1'])
def test_gamma_out_of_range(call, teacher, gamma):
    message = error_of(
        call, *small(teacher, f'train_dataloader.sampler.gamma={gamma}')
    )
    assert message == (
        f'error: gamma must be a finite number and > 0 and < 1, but got '
        f'{gamma}'
    )


@pytest.mark.parametrize(
    ('option', 'text'),
    [
        ('train_dataloader.sampler.num_samples=0', 'num_samples must be'),
        ('train_dataloader.sampler.gama=0.5', "'gama'"),
        ('train_dataloader.sampler.type=AdaptivThresholdSampler', 'nearest'),
        ('train_dataloader.dataset.num_images=0', 'num_images must be'),
        ('model.student.head.num_classes=7', '10 classes'),
        (
            'model.distiller.student_recorders.back.source=head.fd',
            'head.fc',
        ),
        ('load_from=gone.pth', "load_from = 'gone.pth'"),
    ],
)
def test_mistakes_are_one_message(call, teacher, option, text):
    assert text in error_of(call, *small(teacher, option))


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'text'])
def test_a_damaged_teacher(call, tmp_path, content):
    path = tmp_path / 'teacher.pth'
    path.write_bytes(content)
    assert str(path) in error_of(call, *small(path))


def test_a_teacher_of_another_architecture(call, tmp_path):
    path = tmp_path / 'teacher.pth'
    torch.save({'layer.weight': torch.ones(2)}, path)
    assert 'None of its 1 keys match' in error_of(call, *small(path))


def test_a_good_config_starts(call, teacher):
    config = call(*small(teacher))
    assert config.work_dir == os.path.join('work_dirs', 'eeikd_digits')
    assert config.launcher == 'none'
    assert not config.resume
    assert config.load_from is None
    assert config.optim_wrapper.get('type', 'OptimWrapper') == 'OptimWrapper'


def test_options_enter_the_config(train, call, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(train, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(train, 'prepare_distributed', lambda config: None)
    config = call(
        *small(teacher, 'auto_scale_lr.base_batch_size=64'),
        '--work-dir',
        tmp_path / 'run',
        '--amp',
        '--auto-scale-lr',
    )
    assert config.work_dir == str(tmp_path / 'run')
    assert config.optim_wrapper.type == 'AmpOptimWrapper'
    assert config.optim_wrapper.loss_scale == 'dynamic'
    assert config.auto_scale_lr == dict(base_batch_size=64, enable=True)


def test_scaling_the_learning_rate_needs_a_base(call, teacher):
    message = error_of(call, EEIKD, '--auto-scale-lr')
    assert 'auto_scale_lr.base_batch_size' in message


@pytest.mark.parametrize(
    'arguments',
    [('--local-rank', '3'), ('--local_rank', '3'), ('--local-rank=3',)],
)
def test_both_spellings_of_local_rank(call, teacher, arguments):
    call(*small(teacher), *arguments)
    assert os.environ['LOCAL_RANK'] == '3'


def test_a_local_rank_of_the_launcher_is_kept(call, teacher, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    call(*small(teacher))
    assert os.environ['LOCAL_RANK'] == '1'


def save(path, teacher):
    """Save what a run would save."""
    config = Config.fromfile(EEIKD).model
    model = MODELS.build(dict(config, teacher_ckpt=str(teacher)))
    path.parent.mkdir(exist_ok=True)
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)


def test_resume(call, teacher, tmp_path):
    path = save(tmp_path / 'run' / 'epoch_3.pth', teacher)
    config = call(*small(teacher), '--work-dir', tmp_path / 'run', '--resume')
    assert (config.resume, config.load_from) == (True, path)


def test_resume_of_a_run_that_has_not_begun(call, teacher, tmp_path):
    """It begins as the config says."""
    start = save(tmp_path / 'pretrained.pth', teacher)
    config = call(
        *small(teacher, f'load_from={start}'),
        '--work-dir',
        tmp_path / 'run',
        '--resume',
    )
    assert (config.resume, config.load_from) == (False, start)


def test_resume_from_a_path(call, teacher, tmp_path):
    path = save(tmp_path / 'elsewhere.pth', teacher)
    config = call(*small(teacher), '--resume', path)
    assert (config.resume, config.load_from) == (True, path)


def test_resume_from_a_path_that_is_not_there(call, teacher):
    message = error_of(call, *small(teacher), '--resume', 'gone.pth')
    assert "load_from = 'gone.pth'" in message


def test_resume_where_all_checkpoints_are_damaged(call, teacher, tmp_path):
    path = Path(save(tmp_path / 'run' / 'epoch_3.pth', teacher))
    path.write_bytes(path.read_bytes()[:100])
    message = error_of(
        call, *small(teacher), '--work-dir', path.parent, '--resume'
    )
    assert 'none of the checkpoints' in message
    assert str(path) in message


def test_mixed_precision_needs_an_accelerator(
    train, call, teacher, monkeypatch
):
    monkeypatch.setattr(train, 'get_device', lambda: 'cpu')
    message = error_of(call, *small(teacher), '--amp')
    assert message == 'error: --amp needs an accelerator, there is none'


def test_a_variable_of_the_config_file_is_refused(call, teacher):
    message = error_of(call, *small(teacher, 'lambda2=3.0'))
    assert "'lambda2' is a variable of the config file" in message


def test_a_bad_score_cache_is_found_before_the_run(call, teacher, tmp_path):
    cache = tmp_path / 'scores.npz'
    cache.write_text('no scores')
    message = error_of(
        call, *small(teacher, f'train_dataloader.sampler.cache_file={cache}')
    )
    assert f'the score cache {cache} cannot be read' in message
    assert 'allow_pickle' not in message


def test_a_teacher_of_nan_is_found_before_the_run(call, teacher, tmp_path):
    weights = torch.load(teacher)
    weights['head.fc.bias'][3] = torch.nan
    torch.save(weights, tmp_path / 'broken.pth')
    message = error_of(call, *small(tmp_path / 'broken.pth'))
    assert 'the teacher gives NaN or infinite logits' in message
