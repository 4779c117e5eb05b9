"""MosaicKD in two real processes, each with its own half of the images."""

import copy
import math

import pytest
import torch
from ddp import run_processes
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from published_players import Net
from torch.testing import assert_close
from toy_runs import (
    build_runner,
    double_players,
    leaves,
    loader,
    make_dataset,
    net_distillation,
)

from mmkd_plugin.engine.hooks import MosaicGeneratorHook
from mmkd_plugin.engine.mosaic_players import MosaicPlayers
from mmkd_plugin.engine.network_state import share_buffers

COMPATS = (None, 'official')
POISONED = ('discriminator', 'teacher')
PICTURES = 4
STILL = dict(type='SGD', lr=0.0)
EXACT = dict(rtol=1e-10, atol=1e-13)


def nets():
    """Build the same teacher and student in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        teacher, student = (Net(classes=3).double() for _ in 'TS')
        teacher.fc.weight.data.mul_(30)
    return teacher.eval(), student


class Spy(Hook):
    """Notes what the first update starts from, and its gradients."""

    priority = 'HIGH'

    def __init__(self, hook):
        self.hook = hook
        self.noise, self.gradients = [], {}

    def before_train_epoch(self, runner):
        players = self.hook.players
        draw = players.generator.sample_latent

        def noted(count, **kwargs):
            z = draw(count, **kwargs)
            # The first process draws pictures.
            if count != PICTURES:
                self.noise.append(z)
            return z

        players.generator.sample_latent = noted
        # Those of the optimizers, after the average and before the step.
        watch(players, self.gradients)

    def before_train_iter(self, runner, batch_idx, data_batch):
        if runner.iter:
            return
        self.images = runner.model.module.data_preprocessor(data_batch)
        self.start = copy.deepcopy(self.hook.players.state_dict())

    def after_train(self, runner):
        del self.hook.players.generator.sample_latent


def watch(players, found):
    for name, optimizer in players.optimizers.items():

        def note(optimizer, args, kwargs, name=name):
            (group,) = optimizer.param_groups
            grads = [p.grad.clone() for p in group['params']]
            found.setdefault(name, grads)

        optimizer.register_step_pre_hook(note)


class Poison(Hook):
    """Puts a NaN into a network of the second process alone."""

    priority = 'HIGH'

    def __init__(self, hook, part):
        self.hook = hook
        self.part = part

    def before_train_iter(self, runner, batch_idx, data_batch):
        # The second update.
        if runner.iter == 3 and get_rank() == 1:
            owner = self.hook.players
            if self.part == 'teacher':
                owner = runner.model.module
            weight = [*getattr(owner, self.part).parameters()][-1]
            weight.data.view(-1)[0] = math.nan


def run(
    rank,
    folder,
    epochs=2,
    load_from=None,
    seed=None,
    poison=None,
    iterations=None,
    **options,
):
    """Train on ten images: epochs of two batches a process.

    Or on more of them, for so many iterations without epochs.
    """
    teacher, student = nets()
    model = MODELS.build(
        net_distillation(
            teacher,
            student,
            dict(type='KLDivergence'),
            type='DoublePreprocessor',
        )
    )
    hook = MosaicGeneratorHook(
        **{
            **double_players(),
            'student_steps': 3,
            'num_pictures': PICTURES,
            'picture_interval': 2,
            **options,
        }
    )
    spy = Spy(hook)
    hooks = [hook, spy, dict(type='SyncBuffersHook')]
    if poison:
        hooks.append(Poison(hook, poison))
    images, loop = 10, dict(by_epoch=True, max_epochs=epochs)
    if iterations:
        # More than are seen: the engine waits at the end of an epoch.
        images, loop = 60, dict(by_epoch=False, max_iters=iterations)
    runner = build_runner(
        folder,
        model,
        loader(make_dataset(images), shuffle=True, batch_size=3),
        hooks,
        train_cfg=loop,
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel',
                broadcast_buffers=False,
                find_unused_parameters=False,
                device_ids=None,
            )
        ),
        default_hooks=dict(
            logger=None,
            checkpoint=dict(
                type='SafeCheckpointHook',
                interval=1,
                by_epoch=not iterations,
            ),
        ),
        load_from=load_from,
        resume=load_from is not None,
        randomness=seed or dict(seed=5),
    )
    try:
        runner.train()
    except FloatingPointError as error:
        assert poison
        message = str(error)
    else:
        message = None
    players = hook.players
    return dict(
        message=message,
        player=players.state_dict(),
        student=student.state_dict(),
        start=getattr(spy, 'start', None),
        images=getattr(spy, 'images', None),
        noise=spy.noise,
        gradients=spy.gradients,
    )


def everything(rank, folder):
    found = {}
    for compat in COMPATS:
        at = folder / str(compat)
        found[compat, 'step'] = run(
            rank,
            folder / f'{compat}_step',
            epochs=1,
            compat=compat,
            generator_optimizer=STILL,
            discriminator_optimizer=STILL,
        )
        found[compat, 'straight'] = run(rank, at, epochs=4, compat=compat)
        found[compat, 'resumed'] = run(
            rank,
            folder / f'{compat}_resumed',
            epochs=4,
            load_from=str(at / 'epoch_2.pth'),
            compat=compat,
        )
    found['seeds'] = run(
        rank,
        folder / 'seeds',
        epochs=1,
        seed=dict(seed=5, diff_rank_seed=True),
    )
    for part in POISONED:
        found['poison', part] = run(rank, folder / part, poison=part)
    at = folder / 'iterations'
    # Updates at 0, 2 and 4.
    options = dict(iterations=6, student_steps=2)
    found['straight'] = run(rank, at, **options)
    found['resumed'] = run(
        rank,
        folder / 'iterations_resumed',
        load_from=str(at / 'iter_3.pth'),
        **options,
    )
    net = Net().double()
    for name, buffer in net.named_buffers():
        buffer.fill_(10 * (rank + 1) + len(name))
    share_buffers(net)
    found['buffers'] = dict(net.named_buffers())
    with pytest.raises(ValueError) as error:
        run(rank, folder / 'norms', sync_bn=['discriminator'])
    found['norms'] = str(error.value)
    return found


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found; they are started once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        # The launcher's. mmengine looks for it.
        patch.setenv('LOCAL_RANK', '0')
        folder = tmp_path_factory.mktemp('ranks')
        return run_processes(everything, folder, folder / 'runs')


@pytest.mark.parametrize('compat', COMPATS)
def test_gradients_are_the_average_of_both(ranks, compat):
    expected = {}
    for rank in ranks:
        found = rank[compat, 'step']
        players = MosaicPlayers(
            **double_players(),
            mean=[120.5] * 3,
            std=[60.0] * 3,
            compat=compat,
            generator_optimizer=STILL,
            discriminator_optimizer=STILL,
        )
        for name in ('generator', 'discriminator'):
            getattr(players, name).load_state_dict(found['start'][name])
        gradients = {}
        watch(players, gradients)
        players.update(*nets(), found['images']['inputs'], z=found['noise'][0])
        for name, values in gradients.items():
            expected.setdefault(name, []).append(values)
    assert expected.keys() == {'generator', 'discriminator'}
    for name, (one, two) in expected.items():
        pairs = [*zip(one, two, strict=True)]
        mean = [(a + b) / 2 for a, b in pairs]
        assert any((a - b).abs().max() > 1e-6 for a, b in pairs)
        for rank in ranks:
            found = rank[compat, 'step']['gradients'][name]
            assert_close(found, mean, **EXACT)


@pytest.mark.parametrize('compat', COMPATS)
def test_noise_and_images_differ(ranks, compat):
    one, two = (rank[compat, 'straight'] for rank in ranks)
    assert len(one['noise']) == len(two['noise']) > 4
    for a, b in zip(one['noise'], two['noise'], strict=True):
        assert not a.equal(b)
    assert not one['images']['inputs'].equal(two['images']['inputs'])


@pytest.mark.parametrize('compat', COMPATS)
def test_networks_are_the_same_in_both(ranks, compat):
    one, two = (rank[compat, 'straight'] for rank in ranks)
    assert leaves(one['start']) == leaves(two['start'])
    for part in ('generator', 'discriminator'):
        other = {
            name
            for name, value in one['player'][part].items()
            if not value.equal(two['player'][part][name])
        }
        # Officially, sampling moves statistics between two updates.
        assert not other or (compat and part == 'generator')
        assert all('running' in name for name in other)
        name = 'layers.0.weight'
        assert not one['start'][part][name].equal(one['player'][part][name])
    for part in ('generator_optimizer', 'discriminator_optimizer'):
        assert leaves(one['player'][part]) == leaves(two['player'][part])
    assert leaves(one['student']) == leaves(two['student'])


@pytest.mark.parametrize('compat', COMPATS)
def test_resumed_run_is_the_same(ranks, compat):
    for rank in ranks:
        straight, resumed = (
            {
                key: value
                for key, value in rank[compat, name].items()
                if key in ('player', 'student')
            }
            for name in ('straight', 'resumed')
        )
        assert leaves(resumed) == leaves(straight)


def test_synchronised_norms_need_accelerators(ranks):
    for rank in ranks:
        assert rank['norms'] == (
            "sync_bn=['discriminator'] needs accelerators, but this run is on "
            'the CPU'
        )


def test_seeds_that_differ(ranks):
    """The networks must not, also where the run's seeds do."""
    one, two = (rank['seeds'] for rank in ranks)
    assert leaves(one['start']) == leaves(two['start'])
    assert leaves(one['player']['generator']) == leaves(
        two['player']['generator']
    )
    assert not one['noise'][0].equal(two['noise'][0])


def test_resumed_between_two_updates(ranks):
    """From a checkpoint before which the processes' statistics differ.

    At the end of an epoch they never do.
    """
    for rank in ranks:
        straight, resumed = (
            {key: rank[name][key] for key in ('player', 'student')}
            for name in ('straight', 'resumed')
        )
        assert leaves(resumed) == leaves(straight)
        assert straight['player']['noise']['draws'] == 3 + 6


def test_buffers_of_the_first_process(ranks):
    one, two = (rank['buffers'] for rank in ranks)
    assert len(one) == 6
    for name, value in one.items():
        count = name.endswith('num_batches_tracked')
        assert value.dtype == (torch.long if count else torch.double)
        assert (value == 10 + len(name)).all()
        # Counts are each process's own.
        assert (two[name] == 10 * (1 + count) + len(name)).all()


@pytest.mark.parametrize(
    ('part', 'text'),
    [
        (
            'discriminator',
            "the discriminator's loss (loss_d), because of weights that are "
            'not finite in the discriminator, in the process 1 became NaN',
        ),
        (
            'teacher',
            "the generator's loss (loss_adv, loss_align, loss_balance), "
            'because of weights that are not finite in the teacher, in the '
            'process 1 became NaN',
        ),
    ],
)
def test_not_finite_in_one_process(ranks, part, text):
    """Both stop at once, before the step, and know why."""
    one, two = (rank['poison', part] for rank in ranks)
    assert one['message'] == two['message']
    assert one['message'].startswith(text)
    assert 'in iteration 4. The last good ch' in one['message']
    assert 'epoch_1.pth' in one['message']
    # The first one's are still whole.
    for name in ('generator', 'discriminator'):
        for value in one['player'][name].values():
            assert value.isfinite().all()
    assert all(value.isfinite().all() for value in one['student'].values())
