"""The tools as a user calls them: killed, resumed, on two processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from published_networks import published_state
from shared_data import SHARED, shared_file

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / 'configs' / 'demo'
ENV = dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable)
# Small, but with dropped classes, connectors, four losses and a selection.
SMALL = [
    'train_dataloader.dataset.num_images=256',
    'train_dataloader.batch_size=16',
    'train_dataloader.sampler.num_samples=64',
    'train_cfg.max_epochs=12',
    'train_cfg.val_interval=6',
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


def weights(path):
    checkpoint = torch.load(path, weights_only=False)
    state = dict(checkpoint['state_dict'])
    momentum = checkpoint['optimizer']['state']
    for index, entry in momentum.items():
        state[f'momentum {index}'] = entry['momentum_buffer']
    return state


def kill_at_random(arguments, work_dir, rng):
    """Start a run, kill it some time after its first checkpoint."""
    process = subprocess.Popen(
        arguments,
        env=ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (work_dir / 'last_checkpoint').exists():
        assert process.poll() is None, 'ended before its first checkpoint'
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_and_resumed_equals_uninterrupted(tmp_path, teacher):
    config = DEMO / 'eeikd_digits.py'
    options = [*SMALL, f'model.teacher_ckpt={teacher}']
    run(command(config, tmp_path / 'whole', *options))
    # Another number of workers, to show that it does not matter.
    options.append('train_dataloader.num_workers=2')
    seed = random.SystemRandom().randrange(2**32)
    print(f'kill seed {seed}')
    work_dir = tmp_path / 'killed'
    kill_at_random(
        command(config, work_dir, *options), work_dir, random.Random(seed)
    )
    assert not (work_dir / 'epoch_12.pth').exists()
    out = run(command(config, work_dir, *options, flags=['--resume']))
    assert 'resumed epoch' in out
    one = weights(tmp_path / 'whole' / 'epoch_12.pth')
    two = weights(work_dir / 'epoch_12.pth')
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


def test_missing_inputs_are_one_message(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / 'tools' / 'train.py'),
            str(ROOT / 'configs' / 'eeikd_r34_r18_cifar100.py'),
        ],
        env=ENV,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    for text in (
        '3 of the inputs are missing',
        'model.teacher_ckpt',
        'python tools/train.py configs/teachers/resnet34_cifar100.py',
        'train_dataloader.dataset.data_file',
        'python tools/pack_dataset.py',
        'val_dataloader.dataset.dataset.data_root',
        "CIFAR100('data/cifar100', download=True)",
    ):
        assert text in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('source', ['torchvision', 'timm'])
def test_own_teacher_and_folder(tmp_path, source):
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
    out = run(
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
        )
    )
    assert '4 chosen' in out
    assert 'teacher on the validation set' in out
    assert (tmp_path / 'run' / 'report' / 'index.html').exists()


STRIPS = [sys.executable, str(SHARED / 'data' / 'strips.py')]


@pytest.fixture(scope='module')
def cifar100(tmp_path_factory):
    """Folder of the real CIFAR-100."""
    archive = shared_file('data/cifar100_lossless.zip')
    folder = tmp_path_factory.mktemp('data') / 'cifar100'
    run([*STRIPS, 'unpack-cifar100', str(archive), str(folder)])
    return folder


def test_real_iterations_on_cifar100(tmp_path, cifar100):
    """The main config on real images, from packing to the report."""
    run(
        [
            *STRIPS,
            'unpack-npz',
            str(SHARED / 'data' / 'tinyimagenet32_50k_q90.zip'),
            str(tmp_path / 'tiny.npz'),
        ]
    )
    heap = tmp_path / 'heap'
    heap.mkdir()
    with np.load(tmp_path / 'tiny.npz') as data:
        for index, pixels in enumerate(data['images'][:64]):
            Image.fromarray(pixels).save(heap / f'{index}.png')
    run(
        [
            sys.executable,
            str(ROOT / 'tools' / 'pack_dataset.py'),
            str(heap),
            '--size',
            '32',
            '--out',
            str(tmp_path / 'heap.npz'),
        ]
    )
    few = [
        'val_dataloader.num_batch_per_epoch=1',
        'val_dataloader.batch_size=50',
        'train_dataloader.batch_size=8',
        'train_cfg.max_epochs=1',
    ]
    root = f'dataset.dataset.data_root={cifar100}'
    run(
        command(
            ROOT / 'configs' / 'teachers' / 'resnet34_cifar100.py',
            tmp_path / 'teacher',
            f'train_dataloader.{root}',
            f'val_dataloader.{root}',
            'train_dataloader.num_batch_per_epoch=2',
            *few,
        )
    )
    out = run(
        command(
            ROOT / 'configs' / 'eeikd_r34_r18_cifar100.py',
            tmp_path / 'student',
            f'model.teacher_ckpt={tmp_path / "teacher" / "epoch_1.pth"}',
            f'train_dataloader.dataset.data_file={tmp_path / "heap.npz"}',
            'train_dataloader.sampler.num_samples=16',
            f'train_dataloader.sampler.cache_file={tmp_path / "scores.npz"}',
            f'val_dataloader.{root}',
            'default_hooks.logger.interval=1',
            *few,
        )
    )
    assert '64 images, 32 with a confidence' in out
    assert '16 chosen' in out
    for term in ('loss_kl', 'loss_front', 'loss_back', 'loss_relation'):
        assert f'distill.{term}' in out
    assert 'accuracy/top1' in out
    assert (tmp_path / 'scores.npz').exists()


def test_sdd_on_cifar100(tmp_path, cifar100):
    """A published checkpoint, converted, teaches on real images."""
    published = tmp_path / 'ckpt_epoch_240.pth'
    torch.save(
        dict(model=published_state('resnet32x4', classes=100)), published
    )
    teacher = tmp_path / 'teacher.pth'
    out = run(
        [
            sys.executable,
            str(ROOT / 'tools' / 'convert_checkpoint.py'),
            str(ROOT / 'configs' / 'teachers' / 'resnet32x4_cifar100.py'),
            str(published),
            str(teacher),
        ]
    )
    assert '7,433,860' in out
    root = f'dataset.dataset.data_root={cifar100}'
    work_dir = tmp_path / 'student'
    out = run(
        command(
            ROOT / 'configs' / 'sdd_kd_r32x4_r8x4_cifar100.py',
            work_dir,
            f'model.teacher_ckpt={teacher}',
            f'train_dataloader.{root}',
            f'val_dataloader.{root}',
            'train_dataloader.batch_size=8',
            'train_dataloader.num_batch_per_epoch=3',
            'val_dataloader.batch_size=20',
            'val_dataloader.num_batch_per_epoch=1',
            'train_cfg.max_epochs=1',
            'default_hooks.logger.interval=1',
        )
    )
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
