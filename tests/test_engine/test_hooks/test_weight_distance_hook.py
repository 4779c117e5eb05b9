"""Path lengths against a plain loop, and after a resume."""

import itertools
import json
import math

import pytest
import torch
from ddp import run_processes
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toy_runs import (
    Terms,
    build_runner,
    distillation,
    loader,
    make_dataset,
    save_teacher,
)

from mmkd_plugin.engine.hooks.weight_distance_hook import WeightDistanceHook
from mmkd_plugin.utils.checkpoint import load_weights

STATE = 'weight_distance'
SAVING = dict(
    logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
)


def winding():
    """A model that goes back in its second iteration."""
    return Terms({2: (-1, 1)})


class Weights(Hook):
    """Keeps a copy of named weights after every iteration."""

    priority = 'VERY_HIGH'

    def __init__(self, *names):
        self.names = names
        self.seen = []

    def _keep(self, runner):
        network = getattr(runner.model, 'student', runner.model)
        values = dict(network.named_parameters())
        names = self.names or list(values)
        self.seen.append(
            [v for n in names for v in values[n].detach().flatten().tolist()]
        )

    def before_train(self, runner):
        self._keep(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        self._keep(runner)


def plain(points):
    """Path lengths along points, in plain Python."""
    lengths = [0.0]
    for before, after in itertools.pairwise(points):
        lengths.append(lengths[-1] + math.dist(before, after))
    return lengths


def read(folder):
    return json.loads((folder / 'weight_distance.json').read_text())


def run(folder, model=None, hooks=(), epochs=3, num=12, **kwargs):
    """Three iterations an epoch."""
    kwargs.setdefault('default_hooks', SAVING)
    runner = build_runner(
        folder,
        model or Terms(),
        loader(make_dataset(num), shuffle=True),
        hooks,
        epochs=epochs,
        **kwargs,
    )
    runner.train()
    return runner


def distill(folder, hooks, load_from=None, **kwargs):
    """Distil with momentum, from the start or from a checkpoint."""
    teacher = folder.parent / 'teacher.pth'
    if not teacher.exists():
        save_teacher(teacher)
    optimizer = dict(type='SGD', lr=0.05, momentum=0.9)
    return run(
        folder,
        distillation(str(teacher)),
        hooks,
        load_from=load_from and str(load_from),
        resume=load_from is not None,
        optim_wrapper=dict(optimizer=optimizer),
        **kwargs,
    )


def test_registered():
    assert HOOKS.get('WeightDistanceHook') is WeightDistanceHook


@pytest.mark.parametrize('granularity', ['step', 'epoch'])
def test_against_a_plain_loop(granularity, tmp_path):
    hook, weights = WeightDistanceHook(granularity=granularity), Weights()
    run(tmp_path, winding(), [hook, weights])
    every = 1 if granularity == 'step' else 3
    lengths = plain(weights.seen[::every])[:: 3 // every]
    initial = math.hypot(1, 2)
    found = read(tmp_path)
    assert found['granularity'] == granularity
    assert found['parameters'] == ['weight']
    assert found['initial_norm'] == pytest.approx(initial, rel=1e-15)
    assert [e['epoch'] for e in found['epochs']] == [0, 1, 2, 3]
    assert [e['iteration'] for e in found['epochs']] == [0, 3, 6, 9]
    assert [e['path_length'] for e in found['epochs']] == pytest.approx(
        lengths, rel=1e-6
    )
    assert [e['distance'] for e in found['epochs']] == pytest.approx(
        [length / initial for length in lengths], rel=1e-6
    )
    assert lengths[1] > 0.1


def test_steps_are_longer_than_epochs(tmp_path):
    hooks = [WeightDistanceHook(granularity=g) for g in ('step', 'epoch')]
    ends = []
    for number, hook in enumerate(hooks):
        run(tmp_path / str(number), winding(), [hook])
        ends.append(read(tmp_path / str(number))['epochs'][-1]['distance'])
    assert ends[0] > 1.01 * ends[1] > 0


def test_student_and_chosen_parameters(tmp_path):
    chosen = ['head', 'backbone.conv1.weight']
    names = ['backbone.conv1.weight', 'head.fc.weight', 'head.fc.bias']
    weights = Weights(*names)
    hook = dict(type='WeightDistanceHook', parameters=chosen)
    distill(tmp_path / 'run', [hook, weights])
    found = read(tmp_path / 'run')
    assert found['parameters'] == names
    assert found['initial_norm'] == pytest.approx(math.hypot(*weights.seen[0]))
    assert [e['path_length'] for e in found['epochs']] == pytest.approx(
        plain(weights.seen)[::3], rel=1e-5
    )


def test_all_parameters_by_default(tmp_path):
    weights = Weights()
    runner = distill(tmp_path / 'run', [WeightDistanceHook(), weights])
    found = read(tmp_path / 'run')
    names = [name for name, _ in runner.model.student.named_parameters()]
    assert found['parameters'] == names
    assert found['epochs'][-1]['path_length'] == pytest.approx(
        plain(weights.seen)[-1], rel=1e-5
    )


def test_many_values(tmp_path, seed):
    # More than are reduced at once, the last part is not full.
    model = Terms()
    model.more = torch.nn.Parameter(torch.randn(2**18 + 7, dtype=torch.double))
    run(tmp_path, model, [WeightDistanceHook()], epochs=1)
    found = read(tmp_path)
    assert found['initial_norm'] == pytest.approx(
        math.hypot(1, 2, *model.more.tolist()), rel=1e-12
    )


def test_a_step_that_changes_nothing_adds_nothing(tmp_path):
    weights = Weights()
    # The weights change in every second iteration.
    run(
        tmp_path,
        hooks=[WeightDistanceHook(), weights],
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05), accumulative_counts=2
        ),
        num=16,
    )
    lengths = plain(weights.seen)
    assert lengths[1] == lengths[0] and lengths[2] > lengths[1]
    assert read(tmp_path)['epochs'][1]['path_length'] == pytest.approx(
        lengths[4], rel=1e-6
    )


@pytest.mark.parametrize('granularity', ['step', 'epoch'])
def test_resumed_run_is_the_same(granularity, tmp_path):
    hook = dict(type='WeightDistanceHook', granularity=granularity)
    one, two = tmp_path / 'straight', tmp_path / 'resumed'
    distill(one, [hook], epochs=4)
    distill(two, [hook], load_from=one / 'epoch_2.pth', epochs=4)
    # Equal as text: bit for bit.
    name = 'weight_distance.json'
    assert (two / name).read_text() == (one / name).read_text()
    assert len(read(two)['epochs']) == 5
    first, second = (
        torch.load(folder / 'epoch_4.pth', weights_only=False)[STATE]
        for folder in (one, two)
    )
    assert first == second
    # No second copy of the weights where they are those of the model.
    assert first['last'] is None


def test_resumed_with_averaged_weights(tmp_path):
    # EMAHook puts the averages in the place of the weights.
    hooks = [
        dict(type='EMAHook', momentum=0.3),
        dict(type='WeightDistanceHook'),
    ]
    one, two = tmp_path / 'straight', tmp_path / 'resumed'
    distill(one, hooks)
    distill(two, hooks, load_from=one / 'epoch_1.pth')
    assert read(two) == read(one)


def test_resumed_within_an_epoch(tmp_path):
    # The engine begins the epoch again, so there is no uninterrupted run to
    # compare with, but the way since the last epoch's end is known.
    saving = dict(
        logger=None,
        checkpoint=dict(type='SafeCheckpointHook', interval=4, by_epoch=False),
    )
    one, two = tmp_path / 'one', tmp_path / 'two'
    before, after = Weights(), Weights()
    hook = dict(type='WeightDistanceHook', granularity='epoch')
    distill(one, [hook, before], default_hooks=saving)
    checkpoint = one / 'iter_4.pth'
    state = torch.load(checkpoint, weights_only=False)[STATE]
    assert state['pending'] == 1
    assert state['last'].tolist() == before.seen[3]
    distill(two, [hook, after], load_from=checkpoint, epochs=2)
    first, second = read(two)['epochs'][1:]
    assert first == read(one)['epochs'][1]
    assert second['path_length'] - first['path_length'] == pytest.approx(
        math.dist(before.seen[3], after.seen[-1]), rel=1e-5
    )


def test_checkpoint_is_plain(tmp_path):
    run(tmp_path, hooks=[WeightDistanceHook()], epochs=1)
    assert list(load_weights(tmp_path / 'epoch_1.pth')) == ['weight']
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)[STATE]
    assert state['epochs'] == read(tmp_path)['epochs']
    assert type(state['path_length']) is float


def test_loaded_weights_are_a_new_start(tmp_path):
    hook = dict(type='WeightDistanceHook')
    run(tmp_path / 'one', hooks=[hook], epochs=2)
    start = tmp_path / 'one' / 'epoch_2.pth'
    run(tmp_path / 'two', hooks=[hook], epochs=1, load_from=str(start))
    found = read(tmp_path / 'two')
    weight = load_weights(start)['weight'].double()
    assert found['initial_norm'] == weight.norm().item()
    assert [e['epoch'] for e in found['epochs']] == [0, 1]
    assert found['epochs'][0]['distance'] == 0


def test_names_without_match(tmp_path):
    wanted = ['head', 'backbone.conv2', 'head.fc.wieght', 'neck.gap']
    with pytest.raises(ValueError) as info:
        distill(tmp_path / 'run', [WeightDistanceHook(parameters=wanted)])
    message = str(info.value)
    assert "'backbone.conv2' (nearest: backbone.conv1" in message
    assert "'head.fc.wieght' (nearest: head.fc.weight" in message
    assert "'neck.gap' (a module without parameters)" in message
    assert "'head' (" not in message
    assert not (tmp_path / 'run' / 'weight_distance.json').exists()


def test_half_a_name_does_not_match(tmp_path):
    with pytest.raises(ValueError, match=r"'weigh' \(nearest: weight\)"):
        run(tmp_path, hooks=[WeightDistanceHook(parameters=['weigh'])])


def test_a_run_has_one_distance(tmp_path):
    hooks = [WeightDistanceHook(), WeightDistanceHook(granularity='epoch')]
    with pytest.raises(ValueError, match='one WeightDistanceHook only'):
        run(tmp_path, hooks=hooks)


def test_weights_of_zero(tmp_path):
    model = Terms()
    torch.nn.init.zeros_(model.weight)
    with pytest.raises(ValueError, match=r'must be > 0, .* it is 0\.0'):
        run(tmp_path, model, [WeightDistanceHook()])


def test_resumed_without_or_with_another_distance(tmp_path):
    one = tmp_path / 'one'
    distill(one, [])
    start = one / 'epoch_1.pth'
    with pytest.raises(ValueError, match='saved without WeightDistanceHook'):
        distill(tmp_path / 'a', [WeightDistanceHook()], load_from=start)
    distill(one, [WeightDistanceHook()], epochs=1)
    with pytest.raises(ValueError, match="'step', but got 'epoch'"):
        hook = WeightDistanceHook(granularity='epoch')
        distill(tmp_path / 'b', [hook], load_from=start)
    with pytest.raises(ValueError, match=r"got \['head.fc.bias'\]"):
        hook = WeightDistanceHook(parameters=['head.fc.bias'])
        distill(tmp_path / 'c', [hook], load_from=start)


def test_run_by_iterations(tmp_path):
    with pytest.raises(ValueError, match='needs a run by epochs'):
        run(
            tmp_path,
            hooks=[WeightDistanceHook()],
            train_cfg=dict(by_epoch=False, max_iters=2),
            default_hooks=dict(logger=None, checkpoint=None),
        )


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(granularity='iter'), r"\('step', 'epoch'\), but got 'iter'"),
        (dict(parameters='head'), "or None for all, but got 'head'"),
        (dict(parameters=[]), r'but got \[\]'),
        (dict(parameters=['']), r"but got \[''\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        WeightDistanceHook(**options)


def _process(rank, folder):
    hook = WeightDistanceHook()
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    runner = run(
        folder,
        hooks=[hook],
        epochs=2,
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=wrapper),
    )
    state = {}
    hook.before_save_checkpoint(runner, state)
    return type(runner.model).__name__, state[STATE]


def test_two_processes(tmp_path, monkeypatch):
    # The launcher's. mmengine looks for it.
    monkeypatch.setenv('LOCAL_RANK', '0')
    group = tmp_path / 'group'
    group.mkdir()
    one, two = run_processes(_process, group, tmp_path / 'run')
    assert one == two
    wrapper, state = one
    assert wrapper == 'MMDistributedDataParallel'
    assert state['parameters'] == ['weight']
    assert state['epochs'] == read(tmp_path / 'run')['epochs']
    # The loss is the same for all images: this is a run of one process.
    run(tmp_path / 'alone', hooks=[WeightDistanceHook()], epochs=2, num=8)
    alone = read(tmp_path / 'alone')['epochs']
    assert [e['path_length'] for e in state['epochs']] == pytest.approx(
        [e['path_length'] for e in alone], rel=1e-6
    )
