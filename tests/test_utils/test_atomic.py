"""Files that are there as a whole or not at all."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from mmkd_plugin.utils.atomic import atomic_write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / 'a.bin'
    with atomic_write(str(path)) as file:
        file.write(b'one')
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b'one'
    with atomic_write(str(path)) as file:
        file.write(b'two')
        assert path.read_bytes() == b'one'
    assert path.read_bytes() == b'two'
    assert names(tmp_path) == ['a.bin']


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('before', [None, b'old'])
def test_an_error_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / 'a.bin'
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), atomic_write(str(path)) as file:
        file.write(b'half')
        raise error
    if before is None:
        assert not names(tmp_path)
    else:
        assert names(tmp_path) == ['a.bin']
        assert path.read_bytes() == before


def test_a_failed_rename_leaves_nothing(tmp_path):
    (tmp_path / 'a').mkdir()
    with pytest.raises(OSError), atomic_write(str(tmp_path / 'a')) as file:
        file.write(b'x')
    assert names(tmp_path) == ['a']


def test_a_kill_leaves_what_was_there(tmp_path):
    """SIGKILL while writing: no handler runs."""
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    source = os.path.abspath(sys.modules[atomic_write.__module__].__file__)
    program = (
        'import importlib.util, os, signal, sys\n'
        'make = importlib.util.spec_from_file_location\n'
        'spec = make("atomic", sys.argv[1])\n'
        'module = importlib.util.module_from_spec(spec)\n'
        'spec.loader.exec_module(module)\n'
        'with module.atomic_write(sys.argv[2]) as file:\n'
        '    file.write(b"half"); file.flush()\n'
        '    os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    done = subprocess.run([sys.executable, '-c', program, source, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b'old'
    # What is left over is hidden, and says whose it is.
    (left,) = [name for name in names(tmp_path) if name != 'a.bin']
    assert left.startswith('.a.bin.')
    assert len(left) == len('.a.bin.') + 8


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_write('a.bin') as file:
        file.write(b'x')
    assert names(tmp_path) == ['a.bin']


def test_others_can_read_it(tmp_path):
    umask = os.umask(0o027)
    try:
        with atomic_write(str(tmp_path / 'a.bin')) as file:
            file.write(b'x')
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)
    mode = stat.S_IMODE((tmp_path / 'a.bin').stat().st_mode)
    assert mode == 0o640


def test_missing_folder(tmp_path):
    path = tmp_path / 'no' / 'a.bin'
    with (
        pytest.raises(FileNotFoundError, match=r'there is no folder .*no to'),
        atomic_write(str(path)),
    ):
        pass
    assert not names(tmp_path)
