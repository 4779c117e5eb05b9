"""Which checkpoint a run goes on from."""

import os
import shutil

import pytest
import torch

import mmkd_plugin.engine.resume as module
from mmkd_plugin.engine.resume import find_resume_checkpoint


def save(folder, name, age=0, note=True):
    """Save a checkpoint that is ``age`` seconds old."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    torch.save(dict(state_dict=dict(weight=torch.ones(1000))), path)
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    if note:
        (folder / 'last_checkpoint').write_text(str(path))
    return path


def truncate(path):
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:1500])
    os.utime(path, (stat.st_atime, stat.st_mtime))


def find(folder):
    found = find_resume_checkpoint(str(folder))
    return None if found is None else os.path.relpath(found, folder)


def test_nothing_is_there(tmp_path):
    assert find(tmp_path) is None
    assert find(tmp_path / 'nowhere') is None
    (tmp_path / 'best_score_epoch_3.pth').write_bytes(b'')
    assert find(tmp_path) is None


def test_the_one_that_is_noted(tmp_path):
    for name, age in (('epoch_1.pth', 20), ('epoch_2.pth', 10)):
        save(tmp_path, name, age)
    save(tmp_path, 'epoch_3.pth', note=False)
    assert find(tmp_path) == 'epoch_2.pth'


@pytest.mark.parametrize('note', ['', '\n', '/gone/epoch_9.pth', '\xff\x00'])
def test_a_note_that_does_not_help(tmp_path, note):
    # Names do not count, and iter_900 is not newer than iter_1000.
    save(tmp_path, 'iter_1000.pth', 10)
    save(tmp_path, 'iter_900.pth', 20)
    save(tmp_path, 'epoch_1.pth', 30)
    (tmp_path / 'last_checkpoint').write_bytes(note.encode('latin1'))
    assert find(tmp_path) == 'iter_1000.pth'


def test_without_a_note(tmp_path):
    save(tmp_path, 'epoch_2.pth', 20, note=False)
    save(tmp_path, 'epoch_3.pth', 10, note=False)
    assert find(tmp_path) == 'epoch_3.pth'


@pytest.mark.parametrize('damage', [truncate, lambda p: p.write_bytes(b'')])
def test_a_damaged_one_falls_back(tmp_path, damage, monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, _: said.append(text))
    save(tmp_path, 'epoch_1.pth', 30)
    save(tmp_path, 'epoch_2.pth', 20)
    damage(save(tmp_path, 'epoch_3.pth', 10))
    assert find(tmp_path) == 'epoch_2.pth'
    assert 'not resumed from: ' in said[0]
    assert 'epoch_3.pth' in said[0]
    damage(tmp_path / 'epoch_2.pth')
    assert find(tmp_path) == 'epoch_1.pth'


def test_all_are_damaged(tmp_path):
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        truncate(save(tmp_path, name))
    with pytest.raises(ValueError, match='none of the checkpoints') as error:
        find(tmp_path)
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        assert str(tmp_path / name) in str(error.value)


def test_a_run_that_was_moved(tmp_path):
    save(tmp_path / 'old', 'epoch_1.pth', 20)
    save(tmp_path / 'old', 'epoch_2.pth', 10)
    shutil.move(tmp_path / 'old', tmp_path / 'new')
    assert find(tmp_path / 'new') == 'epoch_2.pth'


def test_a_run_that_was_copied_goes_on_from_its_own(tmp_path):
    save(tmp_path / 'old', 'epoch_1.pth')
    shutil.copytree(tmp_path / 'old', tmp_path / 'new')
    assert find(tmp_path / 'new') == 'epoch_1.pth'


def test_checkpoints_in_another_folder(tmp_path):
    path = save(tmp_path / 'out', 'epoch_1.pth')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(path))
    assert find(tmp_path / 'run') == os.path.join('..', 'out', 'epoch_1.pth')


def test_odd_names_of_folders(tmp_path):
    folder = tmp_path / 'run [1] *'
    save(folder, 'epoch_1.pth', note=False)
    assert find(folder) == 'epoch_1.pth'
