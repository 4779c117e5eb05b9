import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_plugin.engine.report import make_report

TOOL = Path(__file__).parents[2] / 'tools' / 'report.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('report_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add_run(root, name, top1):
    report = make_report(
        run_name='its own name',
        epochs=1,
        iterations=5,
        validations=[
            dict(iteration=5, epoch=1, metrics={'accuracy/top1': top1})
        ],
        confusion=[[1, 0], [0, 1]],
        teacher=dict(parameters=2000, metrics={'accuracy/top1': 99.6}),
    )
    folder = root / name / 'report'
    folder.mkdir(parents=True)
    (folder / 'report.json').write_text(json.dumps(report))
    return str(root / name)


def test_as_a_user_runs_it(tmp_path):
    dirs = [add_run(tmp_path, 'kd', 97.0), add_run(tmp_path, 'eeikd', 98.5)]
    out = tmp_path / 'new' / 'page.html'
    done = subprocess.run(
        [sys.executable, TOOL, *dirs, '--out', out],
        capture_output=True,
        text=True,
        cwd=TOOL.parents[1],
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0].split('  ')[0] == 'name'
    assert [line.split()[:2] for line in lines[2:]] == [
        ['teacher', '99.60'],
        ['kd', '97.00'],
        ['eeikd', '98.50'],
        [str(out)],
    ]
    page = out.read_text()
    assert '<h1>2 runs</h1>' in page
    assert page.count('<h3>Confusion matrix</h3>') == 2


def test_pictures_of_two_runs(tool, tmp_path, capsys):
    dirs = [add_run(tmp_path, 'kd', 97.0), add_run(tmp_path, 'mosaic', 98.5)]
    folder = tmp_path / 'mosaic' / 'mosaic'
    folder.mkdir()
    (folder / 'first.png').write_bytes(b'early')
    (folder / 'latest.png').write_bytes(b'late')
    out = tmp_path / 'page.html'
    tool.main([*dirs, '--out', str(out)])
    page = out.read_text()
    own = page[page.index('<h2>mosaic</h2>') :]
    assert '<h3>Synthetic images</h3>' in own
    assert page.count('base64,') == own.count('base64,') == 2
    assert own.index('base64,ZWFybHk=') < own.index('base64,bGF0ZQ==')


def test_names(tool, tmp_path, capsys):
    run = add_run(tmp_path, 'kd', 97.0)
    out = tmp_path / 'page.html'
    tool.main([run, '--names', 'baseline', '--out', str(out)])
    assert 'baseline   ' in capsys.readouterr().out
    assert '<h1>baseline</h1>' in out.read_text()


def test_runs_of_one_name_are_told_apart(tool, tmp_path):
    dirs = [
        Path(add_run(tmp_path / seed, 'kd', 97.0)) for seed in ('s0', 's1')
    ]
    assert tool.run_names(dirs) == [str(d) for d in dirs]
    assert tool.run_names(dirs[:1]) == ['kd']


def test_all_faults_in_one_error(tool, tmp_path):
    good = add_run(tmp_path, 'good', 97.0)
    corrupt = add_run(tmp_path, 'corrupt', 97.0)
    path = Path(corrupt, 'report', 'report.json')
    path.write_bytes(path.read_bytes()[:50])
    binary = add_run(tmp_path, 'binary', 97.0)
    Path(binary, 'report', 'report.json').write_bytes(b'\xff\xfe\x00')
    missing = str(tmp_path / 'missing')
    out = tmp_path / 'page.html'
    with pytest.raises(SystemExit) as caught:
        tool.main([good, corrupt, binary, missing, '--out', str(out)])
    message = str(caught.value)
    assert message.startswith('3 of 4 runs have no report')
    for bad in (corrupt, binary, missing):
        assert f'python tools/train.py CONFIG --work-dir {bad}\n' in (
            message + '\n'
        )
    assert good not in message
    assert 'is corrupt' in message and 'there is no' in message
    assert not out.exists()


def test_wrong_number_of_names(tool, tmp_path, capsys):
    run = add_run(tmp_path, 'kd', 97.0)
    with pytest.raises(SystemExit) as caught:
        tool.main([run, '--names', 'a', 'b', '--out', 'page.html'])
    assert caught.value.code == 2
    assert 'got 2 for 1 runs' in capsys.readouterr().err
