import io

import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import PredictionStore
from mmkd_plugin.models.stores import sample_index


@pytest.fixture
def store():
    return PredictionStore(6, 3)


def test_reads_what_was_written(store, seed):
    logits = 3 * torch.randn(3, 3)
    store.write(torch.tensor([5, 0, 2]), logits)
    labels = torch.tensor([1, 2, 0, 0])
    found = store.read(torch.tensor([0, 1, 2, 4]), labels)
    assert found.dtype == torch.float32
    assert torch.equal(found[0], logits[1].softmax(0))
    assert torch.equal(found[2], logits[2].softmax(0))
    # Never seen: the labels.
    assert found[[1, 3]].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert store.seen.tolist() == [True, False, True, False, False, True]


def test_the_last_one_counts(store):
    index, label = torch.tensor([3]), torch.tensor([0])
    store.write(index, torch.tensor([[0.0, 9.0, 0.0]]))
    store.write(index, torch.zeros(1, 3))
    assert_close(store.read(index, label), torch.full((1, 3), 1 / 3))


def test_of_equal_indices_the_last_row_counts(store, seed):
    logits = torch.randn(3, 3)
    store.write(torch.tensor([3, 1, 3]), logits)
    assert torch.equal(store.probs[3], logits[2].softmax(0))
    assert torch.equal(store.probs[1], logits[1].softmax(0))


def test_what_was_read_stays(store):
    """A target of the step is not changed by the writing in it."""
    index, label = torch.tensor([3]), torch.tensor([0])
    store.write(index, torch.zeros(1, 3))
    target = store.read(index, label)
    store.write(index, torch.tensor([[0.0, 9.0, 0.0]]))
    assert_close(target, torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_float32_without_a_graph(store, dtype):
    logits = torch.tensor([[1.0, 2.0, 4.0]], dtype=dtype, requires_grad=True)
    store.write(torch.tensor([1], dtype=torch.int32), logits)
    assert not store.probs.requires_grad
    assert store.probs.dtype == torch.float32
    assert_close(store.probs[1], logits[0].detach().float().softmax(0))


def test_exact_in_a_checkpoint(store, seed):
    store.write(torch.tensor([5, 0]), torch.randn(2, 3))
    file = io.BytesIO()
    torch.save(store.state_dict(), file)
    file.seek(0)
    other = PredictionStore(6, 3)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert set(store.state_dict()) == {'probs', 'seen'}
    assert torch.equal(other.probs, store.probs)
    assert torch.equal(other.seen, store.seen)
    assert not list(store.parameters())
    with pytest.raises(RuntimeError, match='size mismatch for probs'):
        PredictionStore(7, 3).load_state_dict(store.state_dict())


def test_writes_of_all_ranks(store, monkeypatch):
    """Rank 1 of 2, with what rank 0 sends."""
    sent = []

    def all_gather(mine):
        sent.append(mine)
        theirs = mine - 3 if mine.dim() == 1 else mine.flip(1)
        return [theirs, mine]

    monkeypatch.setattr(sample_index.dist, 'is_distributed', lambda: True)
    monkeypatch.setattr(sample_index.dist, 'all_gather', all_gather)
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]])
    store.write(torch.tensor([3, 4]), logits)
    assert len(sent) == 2
    assert store.seen.tolist() == [True, True, False, True, True, False]
    assert_close(store.probs[3:5], logits.softmax(1))
    assert_close(store.probs[:2], logits.softmax(1).flip(1))


def test_empty_batch(store):
    store.write(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3))
    assert not store.seen.any()


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ((0, 3), 'num_samples must be .* >= 1, but got 0'),
        ((4, 1), 'num_classes must be .* >= 2, but got 1'),
        ((4.0, 3), r'num_samples must be an integer, but got 4\.0'),
    ],
)
def test_wrong_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        PredictionStore(*sizes)


@pytest.mark.parametrize(
    ('index', 'message'),
    [
        (torch.tensor([0, 6]), r'in \[0, 6\), .* but got 6'),
        # It would silently be the last sample.
        (torch.tensor([-1, 0]), r'in \[0, 6\), .* but got -1'),
        (torch.tensor([0.0, 1.0]), 'integers of shape .* got torch.float32'),
        (torch.tensor([[0, 1]]), r'integers of shape .* shape \(1, 2\)'),
        ([0, 1], 'sample_idx must be a tensor, but got a list'),
    ],
)
def test_wrong_indices(store, index, message):
    with pytest.raises(ValueError, match=message):
        store.write(index, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=message):
        store.read(index, torch.tensor([0, 1]))
    assert not store.seen.any()


def test_wrong_companions(store):
    index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r'shape \(2, 3\), but got \(2, 4\)'):
        store.write(index, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r'\(2, 3\), but got \(1, 3\)'):
        store.write(index, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r'2 samples and labels .* \(1,\)'):
        store.read(index, torch.tensor([0]))
    with pytest.raises(ValueError, match=r'in \[0, 3\), .* got 3'):
        store.read(index, torch.tensor([0, 3]))
