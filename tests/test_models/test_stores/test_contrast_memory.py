import io
import math

import pytest
import torch
from contracts.base import unit_row
from torch.testing import assert_close

from mmkd_plugin.models import ContrastMemory
from mmkd_plugin.models.stores import sample_index


@pytest.fixture
def memory(seed):
    return ContrastMemory(6, 3)


def test_random_directions():
    torch.manual_seed(1)
    rows = ContrastMemory(2000, 3).rows
    assert_close(rows.norm(dim=1), torch.ones(2000))
    # All directions alike: the mean is 0, the mean square of each part 1/3.
    assert rows.mean(dim=0).abs().max() < 5 / (3 * 2000) ** 0.5
    assert (rows.square().mean(dim=0) - 1 / 3).abs().max() < 0.04
    torch.manual_seed(1)
    assert torch.equal(ContrastMemory(2000, 3).rows, rows)
    assert not torch.equal(ContrastMemory(2000, 3).rows, rows)


@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.9])
def test_moves_towards_new_rows(momentum, seed):
    memory = ContrastMemory(6, 3, momentum).double()
    before = memory.rows.tolist()
    rows = torch.nn.functional.normalize(torch.randn(2, 3)).double()
    memory.write(torch.tensor([4, 1]), rows.requires_grad_())
    for place, row in ((4, rows[0].tolist()), (1, rows[1].tolist())):
        before[place] = unit_row(
            [
                momentum * old + (1 - momentum) * new
                for old, new in zip(before[place], row, strict=True)
            ]
        )
    assert_close(memory.rows.tolist(), before, rtol=1e-12, atol=1e-12)
    assert not memory.rows.requires_grad


def test_of_equal_indices_the_last_row_counts(memory):
    before = memory.rows.clone()
    rows = torch.eye(3)[[0, 1, 2, 1]]
    memory.write(torch.tensor([5, 2, 5, 0]), rows)
    once = ContrastMemory(6, 3)
    once.rows.copy_(before)
    once.write(torch.tensor([2, 5, 0]), rows[1:])
    assert torch.equal(memory.rows, once.rows)
    assert not torch.equal(memory.rows[5], before[5])


def test_what_has_no_direction_is_not_kept(memory):
    before = memory.rows.clone()
    rows = torch.eye(3).repeat(2, 1)[:5].clone()
    rows[0, 1] = math.nan
    rows[1, 2] = math.inf
    # With the old row it adds up to zero.
    rows[2] = -before[2]
    memory.write(torch.arange(5), rows)
    assert torch.equal(memory.rows[:3], before[:3])
    assert torch.equal(memory.rows[5], before[5])
    assert (memory.rows[3:5] != before[3:5]).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_float32(memory, dtype):
    memory.write(
        torch.tensor([1], dtype=torch.int32), torch.eye(3, dtype=dtype)[:1]
    )
    assert memory.rows.dtype == torch.float32
    assert_close(memory.rows[1].norm(), torch.tensor(1.0), rtol=0, atol=1e-3)


def test_exact_in_a_checkpoint(memory):
    memory.write(torch.tensor([5, 0]), torch.eye(3)[:2])
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    other = ContrastMemory(6, 3)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert set(memory.state_dict()) == {'rows'}
    assert torch.equal(other.rows, memory.rows)
    assert not list(memory.parameters())
    with pytest.raises(RuntimeError, match='size mismatch for rows'):
        ContrastMemory(7, 3).load_state_dict(memory.state_dict())


def test_writes_of_all_ranks(memory, monkeypatch):
    """Rank 0 of 2, with what rank 1 sends: one index is the same."""

    def all_gather(mine):
        theirs = mine + 1 if mine.dim() == 1 else mine.roll(2, 1)
        return [mine, theirs]

    before = memory.rows.clone()
    monkeypatch.setattr(sample_index.dist, 'is_distributed', lambda: True)
    monkeypatch.setattr(sample_index.dist, 'all_gather', all_gather)
    memory.write(torch.tensor([3, 4]), torch.eye(3)[:2])
    expected = torch.nn.functional.normalize(
        before[[3, 4, 5]] + torch.eye(3)[[0, 2, 0]]
    )
    assert_close(memory.rows[3:], expected)
    assert torch.equal(memory.rows[:3], before[:3])


def test_empty_batch(memory):
    before = memory.rows.clone()
    memory.write(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3))
    assert torch.equal(memory.rows, before)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ((0, 3), 'num_samples must be .* >= 1, but got 0'),
        ((4, 0), 'feat_dim must be .* >= 1, but got 0'),
        ((4.0, 3), r'num_samples must be an integer, but got 4\.0'),
        ((4, 3, 1.0), r'momentum must be .* < 1, but got 1\.0'),
        ((4, 3, -0.5), r'momentum must be .* >= 0.* but got -0\.5'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ContrastMemory(*options)


@pytest.mark.parametrize(
    ('index', 'rows', 'message'),
    [
        (torch.tensor([0, 6]), torch.eye(3)[:2], r'\[0, 6\), .* got 6'),
        (torch.tensor([-1, 0]), torch.eye(3)[:2], r'\[0, 6\), .* got -1'),
        (torch.tensor([True, False]), torch.eye(3)[:2], 'got torch.bool'),
        (torch.tensor([0, 1]), torch.eye(3), r'\(2, 3\), but got \(3, 3\)'),
        (torch.tensor([0, 1]), [[1.0]], 'rows must be a tensor, but got a l'),
    ],
)
def test_wrong_batch(memory, index, rows, message):
    before = memory.rows.clone()
    with pytest.raises(ValueError, match=message):
        memory.write(index, rows)
    assert torch.equal(memory.rows, before)
