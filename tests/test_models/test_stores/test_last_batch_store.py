import copy
import io
import pickle

import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import LastBatchStore
from mmkd_plugin.models.stores import last_batch_store

INDEX = torch.tensor([7, 2, 9])


@pytest.fixture
def store():
    return LastBatchStore(3, 4)


@pytest.fixture
def logits(seed):
    return torch.randn(3, 4)


def test_reads_what_was_written(store, logits):
    store.write(INDEX, logits)
    found = store.read(torch.tensor([7, 2, 9, 1, 0, 3]))
    assert torch.equal(found, logits)
    assert torch.equal(store.read(INDEX), logits)


def test_only_the_last_batch_counts(store, logits):
    store.write(INDEX, logits)
    store.write(INDEX[:2].flip(0), logits[1:])
    assert store.read(INDEX).shape == (0, 4)
    assert torch.equal(store.read(torch.tensor([2, 7, 9])), logits[1:])


@pytest.mark.parametrize(
    'index', [[2, 7, 9], [7, 2, 8], [1, 7, 2, 9], [7, 2], []]
)
def test_batches_that_begin_with_other_images(store, logits, index):
    store.write(INDEX, logits)
    found = store.read(torch.tensor(index, dtype=torch.long))
    assert found.shape == (0, 4)
    assert found.dtype == torch.float32


def test_empty_at_first(store):
    assert store.read(INDEX).shape == (0, 4)
    assert store.own_idx.tolist() == []


def test_nothing_new(store, logits):
    store.write(INDEX, logits)
    store.write(INDEX[:0], logits[:0])
    assert store.read(INDEX).shape == (0, 4)
    assert store.own_idx.tolist() == []


def test_what_was_read_stays(store, logits):
    """The graph of a step may hold it when the next batch is written."""
    store.write(INDEX, logits)
    found = store.read(INDEX)
    store.write(INDEX, logits + 1)
    assert torch.equal(found, logits)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_float32_without_a_graph(store, logits, dtype):
    given = logits.to(dtype).requires_grad_()
    store.write(INDEX.int(), given)
    found = store.read(INDEX.int())
    assert not found.requires_grad
    assert_close(found, given.detach().float(), rtol=0, atol=0)


def test_the_given_tensors_are_copied(store, logits):
    index = INDEX.clone()
    store.write(index, logits)
    index += 1
    assert len(store.read(INDEX)) == 3


def test_exact_in_a_checkpoint(store, logits):
    store.write(INDEX.flip(0), logits + 1)
    store.write(INDEX[:2], logits[:2])
    file = io.BytesIO()
    torch.save(store.state_dict(), file)
    file.seek(0)
    other = LastBatchStore(3, 4)
    # What it had before is forgotten.
    other.write(INDEX, logits)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert set(store.state_dict()) == {'logits', 'sample_idx'}
    assert torch.equal(other.read(INDEX), logits[:2])
    assert not list(store.parameters())


@pytest.mark.parametrize('copier', [copy.deepcopy, None])
def test_copies(store, logits, copier):
    store.write(INDEX, logits)
    copier = copier or (lambda value: pickle.loads(pickle.dumps(value)))
    other = copier(store)
    store.write(INDEX.flip(0), logits)
    assert torch.equal(other.read(INDEX), logits)


def test_checkpoint_of_other_batches(store, logits):
    """Of another size, or another number of ranks: it starts empty."""
    store.write(INDEX, logits)
    other = LastBatchStore(2, 4)
    other.write(INDEX[:2], logits[:2])
    state = store.state_dict()
    other.load_state_dict(state)
    assert other.read(INDEX).shape == (0, 4)
    # The checkpoint is as it was.
    assert state['logits'].shape == (3, 4)
    assert other.logits.shape == (2, 4)


def test_missing_in_a_checkpoint(store):
    with pytest.raises(RuntimeError, match=r'Missing key.*logits.*sample_idx'):
        store.load_state_dict({})


def test_rows_of_all_ranks(monkeypatch, logits):
    """Rank 1 of 2, with what rank 0 sends."""
    sent = []

    def of_all_ranks(mine):
        sent.append(mine)
        return torch.cat([mine - 1, mine])

    monkeypatch.setattr(last_batch_store, 'get_dist_info', lambda: (1, 2))
    monkeypatch.setattr(last_batch_store, 'of_all_ranks', of_all_ranks)
    store = LastBatchStore(3, 4)
    store.write(INDEX[:2], logits[:2])
    assert len(sent) == 2
    assert store.sample_idx.tolist() == [6, 1, -1, 7, 2, -1]
    assert_close(store.logits[:2], logits[:2] - 1)
    assert torch.equal(store.read(INDEX), logits[:2])
    assert len(store.read(INDEX - 1)) == 0
    # Read from the buffers alone, as after a resume.
    other = LastBatchStore(3, 4)
    other.load_state_dict(store.state_dict())
    assert torch.equal(other.read(INDEX), logits[:2])


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ((0, 3), 'batch_size must be .* >= 1, but got 0'),
        ((4, 1), 'num_classes must be .* >= 2, but got 1'),
        ((4.0, 3), r'batch_size must be an integer, but got 4\.0'),
    ],
)
def test_wrong_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        LastBatchStore(*sizes)


def test_wrong_rows(store, logits):
    with pytest.raises(ValueError, match=r'\(3, 4\), but got \(2, 4\)'):
        store.write(INDEX, logits[:2])
    with pytest.raises(ValueError, match=r'\(3, 4\), but got \(3, 2\)'):
        store.write(INDEX, logits[:, :2])
    with pytest.raises(ValueError, match=r'at most batch_size=3 .* got 4'):
        store.write(torch.arange(4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r'logits must be a tensor, .* tuple'):
        store.write(INDEX, (logits,))
    assert store.own_idx.tolist() == []
