"""``tools/export_generator.py``, as a user runs it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_generators import save_run, toy_generator

from mmkd_plugin.engine.generator_export import load_generator

TOOL = Path(__file__).parents[2] / 'tools' / 'export_generator.py'


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('export_generator', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / 'iter_70.pth', toy_generator())


def test_both_files(run, tmp_path):
    out, onnx = str(tmp_path / 'g.pth'), str(tmp_path / 'g.onnx')
    done = subprocess.run(
        [sys.executable, str(TOOL), run, out, '--onnx', onnx],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'MosaicGenerator of iter_70.pth, iteration 70\n' in done.stdout
    assert f'generator: {out}\n' in done.stdout
    assert f'ONNX:      {onnx} (largest deviation in onnxr' in done.stdout
    assert load_generator(out)[1] == load_generator(run)[1]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['g.onnx', 'g.pth', 'iter_70.pth']


def test_existing_file_needs_force(tool, run, tmp_path, capsys):
    out = tmp_path / 'g.pth'
    out.write_text('old')
    assert tool.main([run, str(out)]) == 1
    assert capsys.readouterr().err == (
        f'export_generator.py: error: {out} exists. Use --force to replace '
        f'it\n'
    )
    assert out.read_text() == 'old'
    assert tool.main([run, str(out), '--force']) == 0
    assert load_generator(str(out))[1]['iteration'] == 70


def test_run_that_does_not_tell_its_iteration(tool, tmp_path, capsys):
    path = save_run(tmp_path / 'x.pth', toy_generator(), meta={})
    assert tool.main([path, str(tmp_path / 'g.pth')]) == 0
    assert 'MosaicGenerator of x.pth\n' in capsys.readouterr().out


def test_unchecked_onnx_is_told(tool, run, tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda n, *args: None if n == 'onnxruntime' else real(n, *args),
    )
    onnx = str(tmp_path / 'g.onnx')
    assert tool.main([run, str(tmp_path / 'g.pth'), '--onnx', onnx]) == 0
    assert 'not compared with PyTorch: onnxr' in capsys.readouterr().out


def test_mistake_is_told(tool, tmp_path, capsys):
    out = str(tmp_path / 'g.pth')
    assert tool.main([str(tmp_path / 'no.pth'), out]) == 1
    error = capsys.readouterr().err
    assert error.startswith('export_generator.py: error: There is no checkp')
    assert error.count('\n') == 1
    assert list(tmp_path.iterdir()) == []
