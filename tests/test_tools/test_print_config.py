"""``tools/print_config.py``, as a user runs it."""

import os
import subprocess
import sys

import pytest
from mmengine.config import Config

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
TOOLS = os.path.join(ROOT, 'tools')


@pytest.fixture
def config(tmp_path):
    """A config with a base, which imports what does not exist."""
    (tmp_path / 'base.py').write_text(
        "custom_imports = dict(imports=['no_such_package'])\n"
        "model = dict(type='Net', depth=18, heads=[dict(a=1), dict(a=2)])\n"
    )
    path = tmp_path / 'child.py'
    path.write_text("_base_ = ['base.py']\nmodel = dict(depth=34)\nlr = 0.1\n")
    return str(path)


def run(*args):
    return subprocess.run(
        [sys.executable, os.path.join(TOOLS, 'print_config.py'), *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_prints_what_was_merged(config):
    done = run(
        config, '--cfg-options', 'model.heads.1.a=5', 'lr=1e-3', 'new.key=x'
    )
    assert done.returncode == 0, done.stderr
    # The output is a config itself.
    printed = Config.fromstring(
        done.stdout.replace('no_such_package', 'mmengine'), '.py'
    )
    assert printed.model.to_dict() == dict(
        type='Net', depth=34, heads=[dict(a=1), dict(a=5)]
    )
    assert printed.lr == 1e-3
    assert printed.new.key == 'x'


@pytest.mark.parametrize('suffix', ['.py', '.json', '.yml'])
def test_saves(config, suffix, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(TOOLS)
    import print_config

    path = str(tmp_path / f'saved{suffix}')
    args = [config, '--cfg-options', 'lr=0.5', '--save-path', path]
    monkeypatch.setattr(sys, 'argv', ['print_config.py', *args])
    print_config.main()
    saved = Config.fromfile(path, import_custom_modules=False)
    assert saved.to_dict() == dict(
        custom_imports=dict(imports=['no_such_package']),
        model=dict(type='Net', depth=34, heads=[dict(a=1), dict(a=2)]),
        lr=0.5,
    )
    assert 'depth=34' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['no_such.py'], 'error: there is no config no_such.py\n'),
        (
            ['{config}', '--save-path', 'x.txt'],
            'error: --save-path must end in one of .py, .json, .yml, .yaml, '
            'but got x.txt\n',
        ),
        (
            ['{config}', '--save-path', 'no_such_folder/x.py'],
            'no_such_folder to write to\n',
        ),
    ],
)
def test_errors(config, args, message):
    done = run(*[arg.format(config=config) for arg in args])
    assert done.returncode == 1
    assert done.stderr.endswith(message)
    assert done.stdout == ''
