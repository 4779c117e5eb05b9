"""Schedules of real runs that move every few iterations."""

import math

import pytest
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.registry import HOOKS
from toy_runs import Terms, build_runner, loader, make_dataset

from mmkd_plugin.engine.hooks import IntervalParamSchedulerHook


class Rates(Hook):
    """Notes the learning rate of each iteration."""

    priority = 'HIGH'

    def __init__(self):
        self.found = []

    def before_train_iter(self, runner, batch_idx, data_batch):
        self.found.append(runner.optim_wrapper.get_lr()['lr'][0])


def run(folder, interval, schedule, **kwargs):
    """Four epochs of three iterations."""
    rates = Rates()
    runner = build_runner(
        folder,
        Terms(),
        loader(make_dataset(12)),
        [rates],
        epochs=4,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        param_scheduler=schedule,
        default_hooks=dict(
            logger=None,
            checkpoint=dict(type='SafeCheckpointHook', interval=1),
            param_scheduler=dict(
                type='IntervalParamSchedulerHook', interval=interval
            ),
        ),
        **kwargs,
    )
    runner.train()
    # One of them alone moves the schedules.
    (hook,) = (h for h in runner.hooks if isinstance(h, ParamSchedulerHook))
    assert type(hook) is IntervalParamSchedulerHook
    return rates.found


def test_registered():
    hook = HOOKS.get('IntervalParamSchedulerHook')
    assert hook is IntervalParamSchedulerHook


@pytest.mark.parametrize('interval', [1, 2, 5])
def test_every_few_iterations(interval, tmp_path):
    schedule = dict(type='CosineAnnealingLR', by_epoch=False, T_max=6)
    expected = [
        1e-3 * (1 + math.cos(math.pi * (i // interval) / 6)) / 2
        for i in range(12)
    ]
    found = run(tmp_path, interval, schedule)
    if interval == 1:
        # The cosine has arrived at its end, and goes up again.
        found, expected = found[:7], expected[:7]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_schedules_of_epochs_are_as_usual(tmp_path):
    schedule = dict(type='MultiStepLR', by_epoch=True, milestones=[2])
    found = run(tmp_path, 5, schedule)
    assert found == pytest.approx([1e-3] * 6 + [1e-4] * 6)


def test_resumed_run(tmp_path):
    schedule = dict(type='CosineAnnealingLR', by_epoch=False, T_max=3)
    straight = run(tmp_path / 'one', 5, schedule)
    # Epochs of three iterations: in the middle of an interval.
    for epoch in (1, 2, 3):
        resumed = run(
            tmp_path / str(epoch),
            5,
            schedule,
            load_from=str(tmp_path / 'one' / f'epoch_{epoch}.pth'),
            resume=True,
        )
        assert resumed == straight[3 * epoch :]


@pytest.mark.parametrize('interval', [0, -1, 2.5, None])
def test_wrong_interval(interval):
    with pytest.raises(ValueError, match=f'interval must .* got {interval}'):
        IntervalParamSchedulerHook(interval=interval)
