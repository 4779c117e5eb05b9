"""The weights of chosen epochs stay, whole, in files of their own."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from toy_runs import (
    Terms,
    build_runner,
    classifier,
    distillation,
    loader,
    make_dataset,
    save_teacher,
)

from mmkd_plugin.engine.hooks.snapshot_hook import SnapshotHook
from mmkd_plugin.utils.checkpoint import load_strict, load_weights


class Weights(Hook):
    """Keeps a copy of the model's weight before training and each epoch."""

    def __init__(self):
        self.seen = []

    def before_train(self, runner):
        self.seen.append(runner.model.weight.detach().clone())

    after_train_epoch = before_train


def run(folder, hooks, model=None, epochs=5, keep=1, load_from=None, **kwargs):
    """Three iterations an epoch, all checkpoints but the last deleted."""
    checkpoint = dict(
        type='SafeCheckpointHook', interval=1, max_keep_ckpts=keep
    )
    runner = build_runner(
        folder,
        model or Terms(),
        loader(make_dataset()),
        hooks,
        epochs=epochs,
        load_from=load_from and str(load_from),
        resume=load_from is not None,
        **{
            'default_hooks': dict(logger=None, checkpoint=checkpoint),
            **kwargs,
        },
    )
    runner.train()
    return runner


def names(folder):
    return sorted(path.name for path in (folder / 'snapshots').iterdir())


def test_registered():
    assert HOOKS.get('SnapshotHook') is SnapshotHook


def test_default_epochs():
    assert SnapshotHook().epochs == (
        *(0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 70, 90, 110, 130, 150),
        *(170, 190, 240, 280, 320, 360, 400),
    )


def test_weights_of_each_epoch(tmp_path):
    weights = Weights()
    run(tmp_path, [SnapshotHook(epochs=(0, 2, 3, 90)), weights])
    # The last epoch is kept, too.
    assert names(tmp_path) == [f'epoch_{i}.pth' for i in (0, 2, 3, 5)]
    for epoch in (0, 2, 3, 5):
        path = tmp_path / 'snapshots' / f'epoch_{epoch}.pth'
        content = torch.load(path, weights_only=True)
        assert set(content) == {'state_dict', 'meta'}
        assert torch.equal(
            content['state_dict']['weight'], weights.seen[epoch]
        )
        assert content['meta'] == dict(
            epoch=epoch,
            iter=3 * epoch,
            seed=5,
            dataset_meta=dict(classes=['a', 'b', 'c']),
        )
    assert not torch.equal(weights.seen[2], weights.seen[3])
    # The usual checkpoints are deleted as ever.
    assert [p.name for p in tmp_path.glob('epoch_*')] == ['epoch_5.pth']


def test_epoch_0_only_where_it_is_asked_for(tmp_path):
    run(tmp_path, [SnapshotHook(epochs=[1])], epochs=2)
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']


def test_student_alone_under_its_own_names(tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    runner = run(
        tmp_path, [SnapshotHook(epochs=[1])], distillation(teacher), epochs=1
    )
    weights = load_weights(tmp_path / 'snapshots' / 'epoch_1.pth')
    student = MODELS.build(classifier(2))
    load_strict(student, weights, 'student')
    for name, value in runner.model.student.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name


def test_trained_weights_and_not_their_average(tmp_path):
    hooks = [dict(type='EMAHook', momentum=0.01), SnapshotHook(epochs=[1])]
    weights = Weights()
    run(tmp_path, [*hooks, weights], epochs=1)
    found = load_weights(tmp_path / 'snapshots' / 'epoch_1.pth')['weight']
    averaged = load_weights(tmp_path / 'epoch_1.pth')['weight']
    assert torch.equal(found, weights.seen[1])
    assert not torch.equal(averaged, found)


def test_resumed_run_leaves_the_same(tmp_path):
    hook = dict(type='SnapshotHook', epochs=[0, 1, 3])
    one, two = tmp_path / 'one', tmp_path / 'two'
    run(one, [hook], epochs=4, keep=-1)
    run(two, [hook], epochs=4, load_from=one / 'epoch_2.pth')
    # Epoch 0 is not written again: it is that of the run before.
    assert names(two) == ['epoch_3.pth', 'epoch_4.pth']
    for name in names(two):
        found, expected = (
            load_weights(folder / 'snapshots' / name)['weight']
            for folder in (two, one)
        )
        assert torch.equal(found, expected)


def test_warns_of_snapshots_of_another_run(tmp_path):
    run(tmp_path, [SnapshotHook(epochs=[0, 2])], epochs=3)
    hook = SnapshotHook(epochs=[0, 2])
    runner = run(tmp_path, [hook], epochs=1, log_level='WARNING')
    (log,) = Path(runner.log_dir).glob('*.log')
    assert 'epoch_0.pth, epoch_2.pth, epoch_3.pth' in log.read_text()
    # They do not get into the new course.
    assert names(tmp_path) == ['before_1', 'epoch_0.pth', 'epoch_1.pth']
    aside = tmp_path / 'snapshots' / 'before_1'
    assert len(list(aside.iterdir())) == 3
    run(tmp_path, [hook], epochs=1)
    assert 'before_2' in names(tmp_path)
    # In a folder of its own there is nothing to say.
    runner = run(tmp_path / 'new', [hook], epochs=1, log_level='WARNING')
    (log,) = Path(runner.log_dir).glob('*.log')
    assert 'snapshots of another' not in log.read_text()


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    run(tmp_path, [SnapshotHook(epochs=[0])], epochs=1)
    path = tmp_path / 'snapshots' / 'epoch_0.pth'
    before = path.read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('os.replace', killed)
    model = Terms()
    torch.nn.init.ones_(model.weight)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [SnapshotHook(epochs=[0])], model, epochs=1)
    # What was there before is whole, and there is no half a file.
    assert (path.parent / 'before_1' / path.name).read_bytes() == before
    assert names(tmp_path) == ['before_1']


def test_run_by_iterations(tmp_path):
    with pytest.raises(ValueError, match='SnapshotHook needs a run by epoch'):
        run(
            tmp_path,
            [SnapshotHook()],
            train_cfg=dict(by_epoch=False, max_iters=2),
            default_hooks=dict(logger=None, checkpoint=None),
        )


@pytest.mark.parametrize(
    'epochs', [(), '02', 5, [2, 1], [1, 1], [-1, 2], [0.0, 1], [True, 2]]
)
def test_bad_epochs(epochs):
    with pytest.raises(ValueError, match='increasing integers >= 0'):
        SnapshotHook(epochs=epochs)
