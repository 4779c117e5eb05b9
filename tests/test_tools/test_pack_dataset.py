"""The packing tool, run as a user does."""

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
from PIL import Image

from mmkd_plugin.datasets import PackedImages
from mmkd_plugin.datasets.packing import pack_folder

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'pack_dataset.py'


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('pack_dataset', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_tree(root, num, side):
    rng = np.random.default_rng(0)
    for i in range(num):
        folder = root / f'class {i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{i:04d}.png')


def test_arguments_reach_the_packer(tool, tmp_path, capsys):
    src, out, report = tmp_path / 'src', tmp_path / 'o.npz', tmp_path / 'r'
    write_tree(src, num=4, side=8)
    (src / 'class 1' / 'bad.jpg').write_bytes(b'')
    args = [src, '--size', '4', '--out', out, '--labels', '--fit', 'crop']
    args += ['--workers', '2', '--report', report]
    assert tool.main(list(map(str, args))) == 0
    output = capsys.readouterr().out
    assert f'{out}: 4 images of 4x4 pixels' in output
    assert f'1 skipped, listed in {report}' in output
    dataset = PackedImages(out, with_label=True)
    assert dataset.images.shape == (4, 4, 4, 3)
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.metainfo['classes'] == ['class 0', 'class 1']
    with np.load(out) as archive:
        assert json.loads(str(archive['meta']))['fit'] == 'crop'
    assert json.loads(report.read_text()) == dict(
        path='class 1/bad.jpg', reason='empty file'
    )


def test_existing_result_needs_force(tool, tmp_path, capsys):
    write_tree(tmp_path / 'src', num=2, side=4)
    out = tmp_path / 'out.npz'
    out.write_text('old')
    args = [str(tmp_path / 'src'), '--size', '4', '--out', str(out)]
    assert tool.main(args) == 1
    assert out.read_text() == 'old'
    assert tool.main([*args, '--force']) == 0
    assert len(PackedImages(out)) == 2


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['none', '--size', '4'], 'none does not exist'),
        (['.', '--size', '0'], 'size must be at least 1, but got 0'),
        (['.', '--size', '4'], 'holds no image'),
        (['.', '--size', '4', '--workers', '0'], 'workers must be at least 1'),
    ],
)
def test_mistake_is_one_line(
    tool, tmp_path, monkeypatch, capsys, args, message
):
    monkeypatch.chdir(tmp_path)
    assert tool.main([*args, '--out', 'out.npz']) == 1
    error = capsys.readouterr().err
    assert error.startswith('pack_dataset.py: error: ')
    assert message in error
    assert error.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('args', [[], ['src'], ['src', '--size', '4']])
def test_required_arguments(tool, args):
    with pytest.raises(SystemExit) as info:
        tool.main(args)
    assert info.value.code == 2


def test_interruption_is_told(tool, monkeypatch, capsys):
    def interrupt(**kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'pack_folder', interrupt)
    assert tool.main(['src', '--size', '4', '--out', 'out.npz']) == 130
    assert 'The same command goes on from here' in capsys.readouterr().err


@pytest.mark.skipif(os.name != 'posix', reason='needs SIGKILL')
def test_killed_tool_goes_on(tool, tmp_path, capsys):
    src, out = tmp_path / 'src', tmp_path / 'out' / 'x.npz'
    out.parent.mkdir()
    # Six chunks and enough to decode that the signal comes in between.
    write_tree(src, num=6, side=256)
    for path in list(src.rglob('*.png')):
        for i in range(63):
            os.link(path, path.with_name(f'{path.stem} {i}.png'))
    args = [src, '--size', '32', '--out', out, '--labels', '--workers', '2']
    args = list(map(str, args))
    environment = dict(os.environ)
    environment['PYTHONPATH'] = os.pathsep.join([str(ROOT), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(TOOL), *args],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    record = out.parent / 'x.npz.part.json'
    while process.poll() is None:
        if record.exists() and record.read_bytes().count(b'\n') >= 2:
            process.kill()
            break
        time.sleep(0.001)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert tool.main(args) == 0
    output = capsys.readouterr().out
    assert 'Going on: ' in output
    assert 'Going on: 0 of' not in output
    assert [p.name for p in out.parent.iterdir()] == ['x.npz']
    pack_folder(src, tmp_path / 'y.npz', size=32, labels=True, workers=1)
    assert out.read_bytes() == (tmp_path / 'y.npz').read_bytes()
