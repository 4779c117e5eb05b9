import math

import pytest
from mmengine.registry import TASK_UTILS

from mmkd_plugin.models import LinearRamp, LinearWarmup, SigmoidRamp


def test_from_zero_it_is_the_warm_up():
    ramp = LinearRamp(stop=6.0, begin=3, end=7)
    warmup = LinearWarmup(value=6.0, begin=3, end=7)
    for epoch in range(10):
        assert ramp(epoch, 99) == pytest.approx(warmup(epoch, 99), rel=1e-15)


def test_share_of_ps_kd():
    """0.8 (e + 1) / E, the published one."""
    ramp = LinearRamp(stop=0.8, end=300)
    for epoch in range(300):
        assert ramp(epoch, 0) == pytest.approx(0.8 * (epoch + 1) / 300)


def test_ends_are_exact():
    ramp = LinearRamp(start=0.3, stop=0.1, begin=2, end=9)
    assert [ramp(t, 0) for t in (0, 1)] == [0.3, 0.3]
    assert [ramp(t, 0) for t in (8, 9, 500)] == [0.1, 0.1, 0.1]
    # Half of the seven steps and a half.
    assert ramp(4, 0) == pytest.approx(0.3 - 0.2 * 3 / 7)


def test_sigmoid_is_the_published_ramp():
    ramp = SigmoidRamp(value=2.0, end=80)
    for epoch in range(80):
        expected = 2 * math.exp(-5 * (1 - epoch / 80) ** 2)
        assert ramp(epoch, 10**6) == pytest.approx(expected, rel=1e-14)
    assert ramp(0, 0) == 2 * math.exp(-5)
    assert ramp(79, 0) < 2
    assert ramp(80, 0) == ramp(500, 0) == 2


def test_sigmoid_of_a_later_begin():
    ramp = SigmoidRamp(begin=10, end=14)
    weights = [ramp(t, 0) for t in (0, 10, 12, 14)]
    low = math.exp(-5)
    assert weights == pytest.approx([low, low, math.exp(-1.25), 1])


@pytest.mark.parametrize('name', ['LinearRamp', 'SigmoidRamp'])
def test_by_iteration_and_by_name(name):
    by_epoch = TASK_UTILS.build(dict(type=name, end=5))
    ramp = TASK_UTILS.build(dict(type=name, end=5, by_epoch=False))
    for now in range(7):
        assert ramp(None, now) == by_epoch(now, None)
        assert type(ramp(None, now)) is float
    with pytest.raises(
        RuntimeError, match=f'{name} goes by the iteration.*by_epoch=True'
    ):
        ramp(3, None)
    with pytest.raises(
        RuntimeError, match=rf'{name} goes by the epoch.*progress\(epoch='
    ):
        by_epoch(None, 3)


@pytest.mark.parametrize(
    ('cls', 'options', 'message'),
    [
        (LinearRamp, dict(start='0'), "start must be a finite .* got '0'"),
        (LinearRamp, dict(stop=math.nan), 'stop must be .* got nan'),
        (SigmoidRamp, dict(value=None), 'value must be .* got None'),
        *(
            (cls, options, message)
            for cls in (LinearRamp, SigmoidRamp)
            for options, message in (
                (dict(begin=-1), 'begin must be .*>= 0, but got -1'),
                (dict(end=2.0), 'end must be an integer, but got 2.0'),
                (dict(begin=20), 'greater than begin=20, but got 20'),
                (dict(by_epoch=1), 'by_epoch must be True or .* got 1'),
            )
        ),
    ],
)
def test_wrong_options(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**{'end': 20, **options})
