"""The tools as a user calls them: killed, resumed, on two processes."""

import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import ToolProcess, format_once
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from published_networks import published_state
from shared_data import SHARED, shared_file
from yapf.yapflib import yapf_api

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / 'configs' / 'demo'
ENV = dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable)
# Small, but with dropped classes, connectors, four losses and a selection.
SMALL = [
    'train_dataloader.dataset.num_images=256',
    'train_dataloader.batch_size=16',
    'train_dataloader.sampler.num_samples=64',
    'train_cfg.max_epochs=6',
    'train_cfg.val_interval=3',
]


def save_untrained(config: dict, path: Path) -> Path:
    """Save a model with random weights: these tests ask for no accuracy."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    torch.save(MODELS.build(config).state_dict(), path)
    return path


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    config = Config.fromfile(DEMO / 'eeikd_digits.py')
    folder = tmp_path_factory.mktemp('teacher')
    return save_untrained(config.model.teacher, folder / 'teacher.pth')


def command(config, work_dir, *options, flags=()):
    return [
        sys.executable,
        str(ROOT / 'tools' / 'train.py'),
        str(config),
        '--work-dir',
        str(work_dir),
        *flags,
        '--cfg-options',
        *options,
    ]


def run(arguments, **kwargs):
    done = subprocess.run(
        arguments,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def load_tool(name):
    """Load a tool as a module.

    It runs like in a process of its own, without the seconds of importing
    PyTorch.
    """
    spec = importlib.util.spec_from_file_location(
        f'{name}_tool', ROOT / 'tools' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(tool, arguments):
    """Call a tool with a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [*map(str, arguments)])
        # Tools set it.
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr(yapf_api, 'FormatCode', format_once())
        tool.main()


@pytest.fixture(scope='module')
def tool():
    """tools/train.py as a module."""
    return load_tool('train')


def log_of(work_dir):
    """Read the log of a run."""
    (path,) = work_dir.glob('*/*.log')
    return path.read_text()


def weights(path):
    checkpoint = torch.load(path, weights_only=False)
    state = dict(checkpoint['state_dict'])
    momentum = checkpoint['optimizer']['state']
    for index, entry in momentum.items():
        state[f'momentum {index}'] = entry['momentum_buffer']
    return state


def kill_at_random(process, work_dir, rng):
    """Kill a run some time after its first checkpoint."""
    while not (work_dir / 'last_checkpoint').exists():
        assert process.running(), 'ended before its first checkpoint'
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    process.kill()


def test_killed_and_resumed_equals_uninterrupted(tmp_path, teacher, tool):
    config = DEMO / 'eeikd_digits.py'
    options = [*SMALL, f'model.teacher_ckpt={teacher}']
    seed = random.SystemRandom().randrange(2**32)
    print(f'kill seed {seed}')
    work_dir = tmp_path / 'killed'

    def fork(*flags):
        # Another number of workers, to show that it does not matter.
        arguments = [*options, 'train_dataloader.num_workers=2']
        return ToolProcess(
            command(config, work_dir, *arguments, flags=flags)[1:],
            ENV,
            tmp_path / 'out.txt',
        )

    kill_at_random(fork(), work_dir, random.Random(seed))
    assert not (work_dir / 'epoch_6.pth').exists()
    resumed = fork('--resume')
    # Both at once, as there are two cores nearly everywhere.
    call(tool, command(config, tmp_path / 'whole', *options)[1:])
    assert 'resumed epoch' in resumed.text()
    one = weights(tmp_path / 'whole' / 'epoch_6.pth')
    two = weights(work_dir / 'epoch_6.pth')
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    # What is not the student's does not belong there.
    assert not [name for name in one if 'teacher' in name]


def test_two_processes(tmp_path, teacher):
    out = run(
        [
            'bash',
            str(ROOT / 'tools' / 'dist_train.sh'),
            str(DEMO / 'eeikd_digits.py'),
            '2',
            '--work-dir',
            str(tmp_path / 'run'),
            '--cfg-options',
            *SMALL,
            'train_cfg.max_epochs=1',
            'model.distiller.distill_losses.loss_relation.gather=True',
            f'model.teacher_ckpt={teacher}',
        ]
    )
    # 64 images, 16 on each of two processes.
    assert '[1][2/2]' in out or 'Saving checkpoint at 1 epochs' in out
    assert '64 chosen' in out
    out = run(
        [
            'bash',
            str(ROOT / 'tools' / 'dist_test.sh'),
            str(DEMO / 'eeikd_digits.py'),
            str(tmp_path / 'run' / 'epoch_1.pth'),
            '2',
            '--work-dir',
            str(tmp_path / 'test'),
            '--out',
            str(tmp_path / 'metrics.json'),
        ]
    )
    assert 'accuracy/top1' in (tmp_path / 'metrics.json').read_text()


def test_missing_inputs_are_one_message(tmp_path, tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ROOT / 'configs' / 'eeikd_r34_r18_cifar100.py'
    # How the process ends is tested with the command line.
    with pytest.raises(SystemExit) as exit_:
        call(tool, ['train.py', config])
    for text in (
        'error: 3 of the inputs are missing',
        'model.teacher_ckpt',
        'python tools/train.py configs/teachers/resnet34_cifar100.py',
        'train_dataloader.dataset.data_file',
        'python tools/pack_dataset.py',
        'val_dataloader.dataset.dataset.data_root',
        "CIFAR100('data/cifar100', download=True)",
    ):
        assert text in exit_.value.code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('source', ['torchvision', 'timm'])
def test_own_teacher_and_folder(tmp_path, source, tool):
    """Images of a folder, a teacher of another library, 2 iterations."""
    config = Config.fromfile(ROOT / 'configs' / 'eeikd_custom_r18_folder.py')
    rng = np.random.default_rng(0)
    for kind in ('heap/any', 'val/a', 'val/b'):
        (tmp_path / kind).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f'{index}.png')
    teacher = dict(config.model.teacher, num_classes=2, model_name='resnet18')
    options = []
    if source == 'timm':
        pytest.importorskip('timm', reason='the timm teacher needs timm')
        teacher['type'] = 'TimmClassifier'
        options = ['model.teacher.type=TimmClassifier']
    path = save_untrained(teacher, tmp_path / 'teacher.pth')
    size = 32
    steps = 'model.data_preprocessor.augments'
    call(
        tool,
        command(
            ROOT / 'configs' / 'eeikd_custom_r18_folder.py',
            tmp_path / 'run',
            *options,
            f'model.teacher_ckpt={path}',
            'model.teacher.model_name=resnet18',
            'model.teacher.num_classes=2',
            'model.student.head.num_classes=2',
            'model.distiller.connectors.back.out_channels=512',
            f'{steps}.0.crop_size={size}',
            f'{steps}.0.padding=4',
            f'train_dataloader.dataset.data_root={tmp_path / "heap"}',
            f'train_dataloader.dataset.pipeline.1.scale={size}',
            f'train_dataloader.dataset.pipeline.2.crop_size={size}',
            f'val_dataloader.dataset.data_root={tmp_path / "val"}',
            f'val_dataloader.dataset.pipeline.1.scale={size}',
            f'val_dataloader.dataset.pipeline.2.crop_size={size}',
            'val_evaluator.topk=1',
            'train_dataloader.batch_size=2',
            'train_dataloader.num_workers=0',
            'train_dataloader.persistent_workers=False',
            'val_dataloader.num_workers=0',
            'val_dataloader.persistent_workers=False',
            'train_dataloader.sampler.num_samples=4',
            'train_dataloader.sampler.gamma=0.9',
            'train_dataloader.sampler.num_workers=0',
            'train_cfg.max_epochs=1',
        )[1:],
    )
    out = log_of(tmp_path / 'run')
    assert '4 chosen' in out
    assert 'teacher on the validation set' in out
    assert (tmp_path / 'run' / 'report' / 'index.html').exists()


STRIPS = [sys.executable, str(SHARED / 'data' / 'strips.py')]


def real_cifar100(tmp_path_factory):
    """Get the folder of the real CIFAR-100, unpacked once for all tests."""
    archive = shared_file('data/cifar100_lossless.zip')
    folder = tmp_path_factory.getbasetemp() / 'real_cifar100'
    if not folder.exists():
        run([*STRIPS, 'unpack-cifar100', str(archive), str(folder)])
    return folder


def real_images(archive):
    """Read the first images of a data set, 32x32 pixels each."""
    with zipfile.ZipFile(shared_file(archive)) as file:
        strip = Image.open(io.BytesIO(file.read('00000.webp')))
    return np.asarray(strip.convert('RGB')).reshape(-1, 32, 32, 3)


@pytest.fixture(scope='module')
def cifar100(tmp_path_factory):
    return real_cifar100(tmp_path_factory)


def test_real_iterations_on_cifar100(tmp_path, cifar100, tool):
    """The main config on real images, from packing to the report."""
    heap = tmp_path / 'heap'
    heap.mkdir()
    images = real_images('data/tinyimagenet32_50k_q90.zip')[:40]
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(heap / f'{index}.png')
    packed = tmp_path / 'heap.npz'
    pack = [heap, '--size', 32, '--out', packed]
    assert load_tool('pack_dataset').main([*map(str, pack)]) == 0
    few = [
        'val_dataloader.dataset.dataset.indices=20',
        'val_dataloader.batch_size=20',
        'train_dataloader.batch_size=8',
        'train_cfg.max_epochs=1',
    ]
    root = f'dataset.dataset.data_root={cifar100}'
    call(
        tool,
        command(
            ROOT / 'configs' / 'teachers' / 'resnet34_cifar100.py',
            tmp_path / 'teacher',
            f'train_dataloader.{root}',
            f'val_dataloader.{root}',
            'train_dataloader.num_batch_per_epoch=2',
            'default_hooks.checkpoint.save_best=None',
            *few,
        )[1:],
    )
    call(
        tool,
        command(
            ROOT / 'configs' / 'eeikd_r34_r18_cifar100.py',
            tmp_path / 'student',
            f'model.teacher_ckpt={tmp_path / "teacher" / "epoch_1.pth"}',
            f'train_dataloader.dataset.data_file={packed}',
            'train_dataloader.sampler.num_samples=16',
            f'train_dataloader.sampler.cache_file={tmp_path / "scores.npz"}',
            f'val_dataloader.{root}',
            'default_hooks.logger.interval=1',
            *few,
        )[1:],
    )
    out = log_of(tmp_path / 'student')
    assert '40 images, 20 with a confidence' in out
    assert '16 chosen' in out
    for term in ('loss_kl', 'loss_front', 'loss_back', 'loss_relation'):
        assert f'distill.{term}' in out
    assert 'accuracy/top1' in out
    assert (tmp_path / 'scores.npz').exists()


def test_sdd_on_cifar100(tmp_path, cifar100, tool, capsys):
    """A published checkpoint, converted, teaches on real images."""
    published = tmp_path / 'ckpt_epoch_240.pth'
    torch.save(
        dict(model=published_state('resnet32x4', classes=100)), published
    )
    teacher = tmp_path / 'teacher.pth'
    config = ROOT / 'configs' / 'teachers' / 'resnet32x4_cifar100.py'
    call(
        load_tool('convert_checkpoint'),
        ['convert_checkpoint.py', config, published, teacher],
    )
    assert '7,433,860' in capsys.readouterr().out
    root = f'dataset.dataset.data_root={cifar100}'
    work_dir = tmp_path / 'student'
    call(
        tool,
        command(
            ROOT / 'configs' / 'sdd_kd_r32x4_r8x4_cifar100.py',
            work_dir,
            f'model.teacher_ckpt={teacher}',
            f'train_dataloader.{root}',
            f'val_dataloader.{root}',
            # The first images of the data set are read, no others.
            'train_dataloader.dataset.dataset.indices=24',
            'train_dataloader.batch_size=8',
            'val_dataloader.dataset.dataset.indices=20',
            'val_dataloader.batch_size=20',
            'train_cfg.max_epochs=1',
            'default_hooks.logger.interval=1',
        )[1:],
    )
    out = log_of(work_dir)
    for term in (
        'student.loss',
        'distill.loss_sdd',
        'distill.sdd_consistent',
        'distill.sdd_complementary',
        'accuracy/top1',
    ):
        assert f'{term}: ' in out
    report = json.loads((work_dir / 'report' / 'report.json').read_text())
    curves = {
        name: np.array(curve['value'])
        for name, curve in report['curves'].items()
    }
    loss = curves['train/distill.loss_sdd']
    assert len(loss) == 3
    np.testing.assert_allclose(
        curves['train/distill.sdd_consistent']
        + curves['train/distill.sdd_complementary'],
        loss,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        curves['train/loss'], curves['train/student.loss'] + loss, rtol=1e-5
    )
