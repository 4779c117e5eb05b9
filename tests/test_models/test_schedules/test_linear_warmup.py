import math

import pytest
from mmengine.logging import MessageHub
from mmengine.registry import TASK_UTILS

from mmkd_plugin.models import LinearWarmup
from mmkd_plugin.models.schedules.progress import Progress, running_progress

# ---------------------------------------------------------------- weights


def test_is_the_warm_up_of_the_published_code():
    """DKD's, where epochs count from 1: min(epoch / warmup, 1)."""
    schedule = LinearWarmup(end=20)
    for epoch in range(1, 241):
        assert schedule(epoch - 1, iteration=10**6) == min(epoch / 20, 1.0)
    assert schedule(0, 0) == 1 / 20
    assert schedule(18, 0) < 1
    assert schedule(19, 0) == 1


def test_later_begin():
    schedule = LinearWarmup(value=6.0, begin=3, end=6)
    weights = [schedule(epoch, 0) for epoch in range(8)]
    assert weights == pytest.approx([0, 0, 0, 2, 4, 6, 6, 6])


def test_by_iteration():
    schedule = LinearWarmup(value=-1.0, end=4, by_epoch=False)
    assert [schedule(7, t) for t in (0, 1, 3, 4)] == [-0.25, -0.5, -1, -1]
    # Epochs are not asked for.
    assert schedule(None, 1) == -0.5


def test_weights_are_plain_numbers():
    for value in (2, 2.0):
        schedule = LinearWarmup(value=value, end=2)
        assert type(schedule(0, 0)) is type(schedule(9, 0)) is float


def test_built_by_name():
    schedule = TASK_UTILS.build(dict(type='LinearWarmup', end=1))
    assert type(schedule) is LinearWarmup
    assert schedule(0, 0) == 1.0


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(value=math.inf), 'value must be a finite number, but got inf'),
        (dict(value='1'), "value must be a finite number, but got '1'"),
        (dict(begin=-1), 'begin must be .*>= 0, but got -1'),
        (dict(begin=0.0), 'begin must be an integer, but got 0.0'),
        (dict(begin=False), 'begin must be an integer, but got False'),
        (dict(end=20.0), 'end must be an integer, but got 20.0'),
        (dict(end=0), 'end must be greater than begin=0, but got 0'),
        (dict(begin=5, end=5), 'end must be greater than begin=5, but got 5'),
        (dict(by_epoch=1), 'by_epoch must be True or False, but got 1'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        LinearWarmup(**{'end': 20, **options})


def test_without_a_count():
    with pytest.raises(
        RuntimeError,
        match=r'goes by the epoch, of which .*set by_epoch=False, or call .*'
        r'set_progress\(epoch=',
    ):
        LinearWarmup(end=2)(None, 3)
    with pytest.raises(
        RuntimeError,
        match=r'goes by the iteration, .*set by_epoch=True, or call .*'
        r'set_progress\(iteration=',
    ):
        LinearWarmup(end=2, by_epoch=False)(3, None)


# --------------------------------------------------------------- progress


@pytest.fixture
def hub():
    """A hub of its own that is the current one, as a runner makes it."""
    name = 'hub of a test'
    yield MessageHub.get_instance(name)
    del MessageHub._instance_dict[name]


def told(hub, cfg='', max_epochs=9, loop_stage='train', **infos):
    infos = dict(infos, cfg=cfg, max_epochs=max_epochs, loop_stage=loop_stage)
    hub.update_info_dict(infos)
    return running_progress()


def test_counts_of_the_runner(hub):
    assert told(hub, epoch=3, iter=70) == Progress(3, 70)
    # Also while it validates.
    assert told(hub, epoch=4, iter=80, loop_stage='val') == Progress(4, 80)


def test_no_runner_is_training(hub):
    with pytest.raises(RuntimeError, match=r'no runner .* is training: .*set'):
        running_progress()
    told(hub, epoch=3, iter=70)
    # What RuntimeInfoHook does when the training is over.
    hub.pop_info('loop_stage')
    with pytest.raises(RuntimeError, match=r'no runner .* is training'):
        running_progress()


EPOCH_BASED = [
    'a = 1\ntrain_cfg = dict(by_epoch=True, max_epochs=1)\nval_cfg = dict()\n',
    "train_cfg = dict(max_epochs=1, type='EpochBasedTrainLoop')\n",
    'train_cfg = dict(\n    a=[\n        1,\n    ],\n    by_epoch=True)\n',
]
NOT_EPOCH_BASED = [
    '',
    'train_cfg = None\nother = dict(by_epoch=True)\n',
    'train_cfg = dict(by_epoch=False, max_iters=9)\nx = dict(by_epoch=True)\n',
    "train_cfg = dict(\n    max_iters=9,\n    type='IterBasedTrainLoop')\n",
]


@pytest.mark.parametrize('cfg', EPOCH_BASED)
def test_one_epoch_is_one(hub, cfg):
    assert told(hub, cfg, 1, epoch=0, iter=7) == Progress(0, 7)


@pytest.mark.parametrize('cfg', NOT_EPOCH_BASED)
def test_iteration_based_loops_have_no_epoch(hub, cfg):
    assert told(hub, cfg, 1, epoch=0, iter=7) == Progress(None, 7)
    # With more epochs there is no doubt.
    assert told(hub, cfg, 2, epoch=0, iter=7) == Progress(0, 7)
