"""``tools/synthesize.py``, as a user runs it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_generators import CONFIG, save_run, toy_generator

from mmkd_plugin.datasets import PackedImages
from mmkd_plugin.engine.generator_export import export_generator
from mmkd_plugin.engine.synthesis import synthesize
from mmkd_plugin.version import __version__

TOOL = Path(__file__).parents[2] / 'tools' / 'synthesize.py'
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('synthesize', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    (tmp_path / 'out').mkdir()
    return save_run(tmp_path / 'iter_70.pth', toy_generator())


def arguments(run, out, *more, num=20):
    return [run, '--num', str(num), '--out', str(out), *more]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_packed_file(run, tmp_path):
    out = tmp_path / 'out' / 'x.npz'
    done = subprocess.run(
        [sys.executable, str(TOOL), *arguments(run, out, '--seed', '5')],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '20/20' in done.stdout
    assert f'{out}: 20 images of 8x8 pixels' in done.stdout
    images = PackedImages(out).images
    expected = np.concatenate([*synthesize(toy_generator(), 20, seed=5)])
    assert np.array_equal(images, expected)
    with np.load(out) as archive:
        meta = json.loads(str(archive['meta']))
    assert meta['source'] == dict(
        generator=CONFIG,
        checkpoint='iter_70.pth',
        iteration=70,
        seed=5,
        mmkd_plugin_version=__version__,
    )
    assert names(out.parent) == ['x.npz']


def test_same_seed_gives_the_same_file(tool, run, tmp_path):
    """Whatever the batch size, and from a run or its export."""
    exported = str(tmp_path / 'g.pth')
    export_generator(run, exported)
    files = []
    for path, *more in (
        (run,),
        (run, '--batch-size', '1'),
        (run, '--batch-size', '7'),
        (exported, '--batch-size', '20', '--device', 'cpu'),
        (run, '--seed', '1'),
    ):
        out = tmp_path / 'out' / f'{len(files)}.npz'
        assert tool.main(arguments(path, out, *more)) == 0
        files.append(out.read_bytes())
    assert files[1] == files[2] == files[3] == files[0]
    assert files[4] != files[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_same_file_on_a_gpu(tool, run, tmp_path):
    one, two = tmp_path / 'out' / '1.npz', tmp_path / 'out' / '2.npz'
    for out, device in ((one, 'cpu'), (two, 'cuda')):
        assert tool.main(arguments(run, out, '--device', device)) == 0
    assert one.read_bytes() == two.read_bytes()


def test_existing_file_needs_force(tool, run, tmp_path, capsys):
    out = tmp_path / 'out' / 'x.npz'
    out.write_text('old')
    assert tool.main(arguments(run, out)) == 1
    error = capsys.readouterr().err
    assert error == (
        f'synthesize.py: error: {out} exists. Use --force to replace it\n'
    )
    assert out.read_text() == 'old'
    assert tool.main(arguments(run, out, '--force')) == 0
    assert len(PackedImages(out)) == 20


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--num', '0'], 'num_images must be a finite number and >= 1'),
        (['--seed', '-1'], 'seed must be a finite number and >= 0'),
        (['--batch-size', '0'], 'batch_size must be a finite number and >= 1'),
        (['--out', 'none/x.npz'], '`mkdir -p none`'),
        (['--out', '.'], '. is a folder'),
    ],
)
def test_mistake_is_one_line(
    tool, run, tmp_path, monkeypatch, capsys, more, message
):
    monkeypatch.chdir(tmp_path / 'out')
    assert tool.main(arguments(run, 'x.npz', *more)) == 1
    error = capsys.readouterr().err
    assert error.startswith('synthesize.py: error: ')
    assert message in error
    assert error.count('\n') == 1
    assert names(tmp_path / 'out') == []


def test_what_cannot_be_packed(tool, tmp_path, capsys):
    path = save_run(tmp_path / 'grey.pth', toy_generator(out_channels=1))
    content = torch.load(path, weights_only=True)
    state = content['mosaic_generator_hook']
    state['generator']['out_channels'] = 1
    state['mean'], state['std'] = [1.0], [2.0]
    torch.save(content, path)
    assert tool.main(arguments(path, tmp_path / 'x.npz')) == 1
    error = capsys.readouterr().err
    assert f'have 3 channels, but the generator of {path} makes 1' in error
    assert names(tmp_path) == ['grey.pth']
    assert tool.main(arguments('no.pth', tmp_path / 'x.npz')) == 1
    assert 'There is no checkpoint no.pth' in capsys.readouterr().err


def test_no_gpu(tool, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    out = tmp_path / 'out' / 'x.npz'
    assert tool.main(arguments(run, out, '--device', 'cuda')) == 1
    assert 'take --device cpu' in capsys.readouterr().err
    assert tool.main(arguments(run, out)) == 0


@pytest.mark.parametrize(
    ('error', 'code', 'message'),
    [
        (KeyboardInterrupt(), 130, 'Interrupted. Nothing was written.'),
        (torch.OutOfMemoryError('full'), 1, 'full. Give it a smaller --batch'),
        (RuntimeError('broken'), 1, 'synthesize.py: error: broken'),
    ],
)
def test_failure_half_way(
    tool, run, tmp_path, monkeypatch, capsys, error, code, message
):
    def blocks(*args, **kwargs):
        yield np.zeros((5, 8, 8, 3), np.uint8)
        raise error

    monkeypatch.setattr(tool, 'synthesize', blocks)
    assert tool.main(arguments(run, tmp_path / 'out' / 'x.npz')) == code
    assert message in capsys.readouterr().err
    assert names(tmp_path / 'out') == []


@pytest.mark.parametrize('missing', ['--num', '--out'])
def test_required_arguments(tool, run, missing):
    args = arguments(run, 'x.npz')
    where = args.index(missing)
    with pytest.raises(SystemExit) as info:
        tool.main(args[:where] + args[where + 2 :])
    assert info.value.code == 2


@pytest.mark.skipif(os.name != 'posix', reason='needs SIGKILL')
def test_killed_tool(tool, run, tmp_path):
    out = tmp_path / 'out' / 'x.npz'
    args = arguments(run, out, '--batch-size', '50', num=1_000_000)
    process = subprocess.Popen(
        [sys.executable, str(TOOL), *args],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
    )
    temporary = out.parent / 'x.npz.part.npz'
    while process.poll() is None:
        if temporary.exists() and temporary.stat().st_size > 10_000:
            process.kill()
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert tool.main(arguments(run, out)) == 0
    assert len(PackedImages(out)) == 20
    assert names(out.parent) == ['x.npz']
