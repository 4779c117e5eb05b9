"""Checkpoints that survive a kill at any moment."""

import os
import sys

import pytest
import torch
from mmengine.registry import HOOKS
from toy_runs import Terms, build_runner, loader, make_dataset, validation

from mmkd_plugin.engine.hooks import SafeCheckpointHook
from mmkd_plugin.engine.hooks.safe_checkpoint_hook import AtomicLocalBackend
from mmkd_plugin.engine.resume import find_resume_checkpoint

_watching = []


def _audit(event, arguments):
    if _watching and event in ('open', 'os.rename', 'os.remove'):
        _watching[0](str(arguments))


# Python tells of every file operation before it happens.
sys.addaudithook(_audit)


@pytest.fixture
def before_every_operation():
    """Call a function before anything happens in a folder."""

    def watch(folder, function):
        def called(arguments):
            if str(folder) in arguments and (
                '.pth' in arguments or 'last_checkpoint' in arguments
            ):
                _watching.clear()
                function()
                _watching.append(called)

        _watching.append(called)

    yield watch
    _watching.clear()


def build(folder, model=None, epochs=3, checkpoint=None, num=12, **kwargs):
    """Three iterations an epoch, a checkpoint at the end of each."""
    return build_runner(
        folder,
        model or Terms(),
        loader(make_dataset(num)),
        epochs=epochs,
        default_hooks=dict(
            logger=None,
            checkpoint={
                'type': 'SafeCheckpointHook',
                'interval': 1,
                **(checkpoint or {}),
            },
        ),
        **kwargs,
    )


def names(folder):
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.suffix != '.py'
    )


def noted(folder):
    return (folder / 'last_checkpoint').read_text()


def read(path):
    return torch.load(path, weights_only=False)


def test_registered():
    assert HOOKS.get('SafeCheckpointHook') is SafeCheckpointHook


def test_every_checkpoint_is_kept_by_default(tmp_path):
    runner = build(tmp_path)
    runner.train()
    assert names(tmp_path) == [
        *(f'epoch_{i}.pth' for i in (1, 2, 3)),
        'last_checkpoint',
    ]
    assert noted(tmp_path) == str(tmp_path / 'epoch_3.pth')
    checkpoint = read(tmp_path / 'epoch_3.pth')
    assert checkpoint['meta']['epoch'] == 3
    assert checkpoint['meta']['iter'] == 9
    assert torch.equal(checkpoint['state_dict']['weight'], runner.model.weight)
    assert 'optimizer' in checkpoint


def test_old_ones_are_deleted(tmp_path):
    build(tmp_path, epochs=5, checkpoint=dict(max_keep_ckpts=2)).train()
    assert names(tmp_path) == ['epoch_4.pth', 'epoch_5.pth', 'last_checkpoint']


def test_by_iteration(tmp_path):
    build(
        tmp_path,
        checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=2),
        train_cfg=dict(by_epoch=False, max_iters=7),
        num=28,
    ).train()
    # save_last saves the seventh
    assert names(tmp_path) == ['iter_6.pth', 'iter_7.pth', 'last_checkpoint']
    assert noted(tmp_path) == str(tmp_path / 'iter_7.pth')


def moments(tmp_path, watch, checkpoint, **kwargs):
    """Which epoch a run would go on from if it was killed at each moment."""
    found = []

    def look():
        try:
            path = find_resume_checkpoint(str(tmp_path))
        except ValueError:
            path = None
        best = list(tmp_path.glob('best_*.pth'))
        readable = []
        for candidate in best:
            try:
                read(candidate)
                readable.append(candidate.name)
            except Exception:
                pass
        epoch = read(path)['meta']['epoch'] if path else 0
        note = tmp_path / 'last_checkpoint'
        # What the note names is there.
        named = not note.exists() or os.path.isfile(note.read_text())
        found.append((epoch if named else 0, bool(readable)))

    watch(tmp_path, look)
    build(tmp_path, epochs=4, checkpoint=checkpoint, **kwargs).train()
    return found


def test_there_is_a_whole_checkpoint_at_every_moment(
    tmp_path, before_every_operation
):
    scores = [dict(score=s) for s in (0.1, 0.2, 0.3, 0.4)]
    found = moments(
        tmp_path,
        before_every_operation,
        dict(max_keep_ckpts=1, save_best='score', rule='greater'),
        **validation(*scores),
    )
    epochs = [epoch for epoch, _ in found]
    assert len(found) > 20
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1, 2, 3, 4}
    # Once there is a best one, there always is one.
    best = [there for _, there in found]
    assert best == sorted(best)
    assert best[-1]
    assert names(tmp_path) == [
        'best_score_epoch_4.pth',
        'epoch_4.pth',
        'last_checkpoint',
    ]


def test_the_stock_hook_has_moments_without(tmp_path, before_every_operation):
    """What the test above finds where it is not looked after."""
    found = moments(
        tmp_path,
        before_every_operation,
        dict(type='CheckpointHook', max_keep_ckpts=1),
    )
    epochs = [epoch for epoch, _ in found]
    assert 0 in epochs[epochs.index(1) :]


def test_a_failed_write_leaves_the_last_one(tmp_path, monkeypatch):
    put = AtomicLocalBackend.put

    def full(self, obj, filepath):
        if 'epoch_2' in str(filepath):
            put(self, obj[:100], f'{filepath}.part')
            raise OSError('no space left')
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicLocalBackend, 'put', full)
    with pytest.raises(OSError, match='no space left'):
        build(tmp_path, checkpoint=dict(max_keep_ckpts=1)).train()
    last = tmp_path / 'epoch_1.pth'
    assert noted(tmp_path) == str(last)
    assert read(last)['meta']['epoch'] == 1
    assert find_resume_checkpoint(str(tmp_path)) == str(last)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path).train()
    assert names(tmp_path) == []


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    left = [
        '.epoch_3.pth.abcd_123',
        '.best_score_epoch_2.pth.abcd_123',
        '.last_checkpoint.abcd_123',
    ]
    kept = ['.epoch_3.pth', '.epoch_3.pth.backup', '.notes.abcd_123', 'epoch_']
    for name in left + kept:
        (tmp_path / name).write_bytes(b'')
    build(tmp_path, epochs=1).train()
    assert names(tmp_path) == sorted([*kept, 'epoch_1.pth', 'last_checkpoint'])


@pytest.mark.parametrize('folder', ['plain', 'with [brackets]'])
def test_other_names_and_folders(tmp_path, folder):
    work_dir = tmp_path / folder
    work_dir.mkdir()
    out = tmp_path / 'out [1]'
    (out / folder).mkdir(parents=True)
    left = out / folder / '.student_002.pth.12345678'
    left.write_bytes(b'')
    build(
        work_dir,
        checkpoint=dict(
            filename_tmpl='student_{:03d}.pth',
            out_dir=str(out),
            max_keep_ckpts=1,
        ),
    ).train()
    assert names(out / folder) == ['student_003.pth']
    path = str(out / folder / 'student_003.pth')
    assert noted(work_dir) == path
    assert find_resume_checkpoint(str(work_dir)) == path


def test_the_best_is_kept(tmp_path):
    scores = (0.5, 0.7, 0.6, 0.9, 0.9, 0.1)
    runner = build(
        tmp_path,
        checkpoint=dict(max_keep_ckpts=1, save_best='score', rule='greater'),
        **validation(*(dict(score=score) for score in scores)),
    )
    runner.train()
    assert names(tmp_path) == [
        'best_score_epoch_4.pth',
        'epoch_6.pth',
        'last_checkpoint',
    ]
    assert read(tmp_path / 'best_score_epoch_4.pth')['meta']['epoch'] == 4
    hub = read(tmp_path / 'epoch_6.pth')['message_hub']['runtime_info']
    assert hub['best_score'] == 0.9
    assert hub['best_ckpt'] == str(tmp_path / 'best_score_epoch_4.pth')


def test_the_best_by_a_metric_that_is_not_there(tmp_path):
    options = dict(save_best='scoer', rule='greater')
    runner = build(
        tmp_path, checkpoint=options, **validation(dict(score=0.5, other=1.0))
    )
    match = "save_best: there is no metric 'scoer'; nearest: score"
    with pytest.raises(ValueError, match=match):
        runner.train()


def test_the_best_of_two_metrics(tmp_path):
    results = [
        dict(up=0.1, down=3.0),
        dict(up=0.3, down=2.0),
        dict(up=0.2, down=1.0),
    ]
    build(
        tmp_path,
        checkpoint=dict(
            max_keep_ckpts=1,
            save_best=['up', 'down'],
            rule=['greater', 'less'],
        ),
        **validation(*results),
    ).train()
    assert names(tmp_path) == [
        'best_down_epoch_3.pth',
        'best_up_epoch_2.pth',
        'epoch_3.pth',
        'last_checkpoint',
    ]


def test_a_resumed_run_knows_what_to_delete(tmp_path):
    options = dict(max_keep_ckpts=2, save_best='score', rule='greater')
    scores = [dict(score=s) for s in (0.1, 0.8, 0.3, 0.4, 0.9)]
    build(tmp_path, checkpoint=options, **validation(*scores[:3])).train()
    assert names(tmp_path) == [
        'best_score_epoch_2.pth',
        'epoch_2.pth',
        'epoch_3.pth',
        'last_checkpoint',
    ]
    resumed = validation(*scores[3:])
    resumed['train_cfg']['max_epochs'] = 5
    build(
        tmp_path,
        checkpoint=options,
        resume=True,
        load_from=find_resume_checkpoint(str(tmp_path)),
        **resumed,
    ).train()
    assert names(tmp_path) == [
        'best_score_epoch_5.pth',
        'epoch_4.pth',
        'epoch_5.pth',
        'last_checkpoint',
    ]


def test_a_smaller_number_to_keep_holds_after_resuming(tmp_path):
    build(tmp_path, checkpoint=dict(max_keep_ckpts=3)).train()
    build(
        tmp_path,
        epochs=4,
        checkpoint=dict(max_keep_ckpts=1),
        resume=True,
        load_from=str(tmp_path / 'epoch_3.pth'),
    ).train()
    assert names(tmp_path) == ['epoch_4.pth', 'last_checkpoint']
