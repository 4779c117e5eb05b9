import math

import pytest
import torch

from mmkd_plugin.utils.checks import (
    check_choice,
    check_map,
    check_number,
    check_same_shape,
    check_tensors,
    nearest,
)


def test_nearest_by_spelling():
    known = ['backbone.bn1', 'backbone.conv1', 'head.fc']
    assert nearest('backbone.bn2', known).startswith('nearest: backbone.bn1')
    assert 'head.fc' not in nearest('backbone.bn2', known)


def test_nearest_by_last_part():
    # Far apart as strings, yet the same layer in another place.
    known = ['a.very.long.path.to.some.fc', 'backbone', 'neck']
    assert nearest('x.fc', known) == 'nearest: a.very.long.path.to.some.fc'


def test_nearest_is_limited():
    known = [f'layer{i}' for i in range(9)]
    assert nearest('layer', known, count=2).count('layer') == 2
    text = nearest('x.fc', [f'block{i}.stem.fc' for i in range(9)], count=3)
    assert text.count('fc') == 3


def test_nearest_of_nothing_lists_what_there_is():
    assert nearest('zzz', ['b', 'a']) == 'known: a, b'
    many = nearest('zzz', [f'n{i:02}' for i in range(50)], count=5)
    assert many.startswith('known: n00, n01')
    assert many.endswith('n19, ...')
    assert nearest('zzz', []) == 'known: '


def test_check_choice():
    # An iterator is read once, for the test as for the message.
    assert check_choice('mode', 'a', iter(['a', 'b'])) == 'a'
    with pytest.raises(
        ValueError, match=r"mode must be one of \('a', 'b'\), but got 'c'"
    ):
        check_choice('mode', 'c', iter(['a', 'b']))
    with pytest.raises(ValueError, match='got None'):
        check_choice('mode', None, ('a',))


@pytest.mark.parametrize(
    ('value', 'bounds'),
    [
        (0, {}),
        (-3.5, {}),
        (0.5, dict(above=0, below=1)),
        (0, dict(least=0)),
        (1, dict(most=1)),
        (2, dict(least=2, most=2)),
    ],
)
def test_check_number_passes(value, bounds):
    assert check_number('gamma', value, **bounds) is value


@pytest.mark.parametrize(
    ('value', 'bounds', 'message'),
    [
        (0, dict(above=0), r'gamma must be a finite number and > 0, .* got 0'),
        (1, dict(below=1), r'and < 1, but got 1'),
        (-1, dict(least=0), r'and >= 0, but got -1'),
        (2, dict(most=1), r'and <= 1, but got 2'),
        (7, dict(above=0, below=1), r'and > 0 and < 1, but got 7'),
        (math.nan, {}, r'a finite number, but got nan'),
        (math.inf, {}, r'a finite number, but got inf'),
        (-math.inf, dict(most=1), r'got -inf'),
        ('1', {}, r"got '1'"),
        (None, {}, r'got None'),
        (True, {}, r'got True'),
        (1j, {}, r'got 1j'),
    ],
)
def test_check_number_raises(value, bounds, message):
    with pytest.raises(ValueError, match=message):
        check_number('gamma', value, **bounds)


def test_check_tensors():
    check_tensors(x=torch.zeros(1))
    with pytest.raises(
        ValueError, match=r'x must be a tensor, but got a float$'
    ):
        check_tensors(x=1.0)
    for value in [(torch.zeros(1),), [], {}]:
        kind = type(value).__name__
        with pytest.raises(ValueError, match=f'y .* a {kind}, .* data_idx'):
            check_tensors(x=torch.zeros(1), y=value)


def test_check_map():
    check_map('feature', torch.zeros(2, 3, 1, 1), 3)
    for value, got in (
        (torch.zeros(2, 4, 1, 1), r'\(2, 4, 1, 1\)'),
        (torch.zeros(2, 3), r'\(2, 3\)'),
        (torch.zeros(3, 1, 1), r'\(3, 1, 1\)'),
    ):
        with pytest.raises(
            ValueError,
            match=rf'^it must have .*\(N, 3, H, W\), but got {got}$',
        ):
            check_map('it', value, 3)
    with pytest.raises(ValueError, match=r'it must be a tensor, .*data_idx'):
        check_map('it', (torch.zeros(2, 3, 1, 1),), 3)


def test_check_same_shape():
    check_same_shape(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(
        ValueError, match=r'got \(2, 3\) and \(3,\); use a connector$'
    ):
        check_same_shape(
            torch.zeros(2, 3), torch.zeros(3), hint='; use a connector'
        )
    with pytest.raises(ValueError, match='preds_T must be a tensor'):
        check_same_shape(torch.zeros(2, 3), (torch.zeros(2, 3),))
