"""Random numbers that depend on a position."""

import itertools

import numpy as np
import pytest

from mmkd_plugin.utils.counter_rng import counter_rng


def draw(*args, **kwargs):
    return counter_rng(*args, **kwargs).bit_generator.random_raw(4).tolist()


def test_the_same_position_gives_the_same_numbers():
    assert draw(3, 1, 500) == draw(3, 1, 500)
    np.random.seed(0)
    assert draw(3, 1, 500, 2) == draw(3, 1, 500, stream=2)


def test_every_position_has_its_own_numbers():
    positions = itertools.product((0, 1, 2**32), (0, 1), (0, 1, 2**40), (0, 1))
    numbers = [number for p in positions for number in draw(*p)]
    assert len(set(numbers)) == len(numbers) == 3 * 2 * 3 * 2 * 4


def test_numbers_are_pinned():
    """A resumed run may have another version of NumPy."""
    expected = np.random.Philox(key=7, counter=[0, 1, 2, 3]).random_raw(4)
    assert draw(7, 2, 3, 1) == expected.tolist()
    assert draw(7, 2, 3, 1)[0] == 8752274914106351408


@pytest.mark.parametrize('step', [-1, 2**64 + 5])
def test_any_integer_is_a_position(step):
    assert draw(-1, 0, step) == draw(2**64 - 1, 0, step % 2**64)


def test_neighbours_do_not_overlap():
    """A step's many numbers are not those of the next step."""
    one = counter_rng(0, 0, 0).bit_generator.random_raw(10_000)
    two = counter_rng(0, 0, 1).bit_generator.random_raw(10_000)
    three = counter_rng(0, 0, 0, stream=1).bit_generator.random_raw(10_000)
    numbers = np.concatenate([one, two, three])
    assert len(np.unique(numbers)) == 30_000


def test_numbers_are_even():
    means = [counter_rng(0, 0, step).random(8).mean() for step in range(2000)]
    assert np.mean(means) == pytest.approx(0.5, abs=0.01)
    assert np.std(means) == pytest.approx(np.sqrt(1 / 12 / 8), rel=0.05)
