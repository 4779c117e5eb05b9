"""A data loader's batches, for ever."""

import itertools

import pytest
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader, SequentialSampler
from toy_runs import make_dataset

from mmkd_plugin.datasets import array_collate
from mmkd_plugin.engine.endless_batches import EndlessBatches


def make_loader(num=5, sampler=None, **options):
    init_default_scope('mmpretrain')
    dataset = make_dataset(num)
    sampler = sampler or DefaultSampler(dataset, shuffle=True, seed=3)
    return DataLoader(
        dataset,
        batch_size=2,
        collate_fn=array_collate,
        sampler=sampler,
        **options,
    )


def take(batches, count):
    return [
        batch['sample_idx'].tolist()
        for batch in itertools.islice(batches, count)
    ]


def joined(batches):
    return list(itertools.chain(*batches))


def test_epoch_after_epoch():
    found = take(EndlessBatches(make_loader()), 9)
    assert [len(batch) for batch in found] == [2, 2, 1] * 3
    epochs = [joined(found[start : start + 3]) for start in (0, 3, 6)]
    for order in epochs:
        assert sorted(order) == [0, 1, 2, 3, 4]
    # Shuffled anew each time, as the engine's own loop does.
    assert epochs[0] != epochs[1] != epochs[2]
    loader = make_loader()
    for epoch, order in enumerate(epochs):
        loader.sampler.set_epoch(epoch)
        assert joined(take(loader, 3)) == order


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('position', [1, 3, 4, 8])
def test_from_a_position(position, workers):
    expected = take(EndlessBatches(make_loader()), position + 4)[position:]
    loader = make_loader(num_workers=workers)
    assert take(EndlessBatches(loader, position), 4) == expected


def test_samplers_without_epochs():
    sampler = SequentialSampler(range(5))
    found = take(EndlessBatches(make_loader(sampler=sampler), 2), 3)
    assert found == [[4], [0, 1], [2, 3]]


def test_it_is_an_iterator():
    batches = EndlessBatches(make_loader())
    assert iter(batches) is batches
    first = next(batches)['sample_idx'].tolist()
    assert [first, *take(batches, 2)] == take(EndlessBatches(make_loader()), 3)


def test_no_batch():
    with pytest.raises(
        ValueError, match='1 images a process are fewer than a batch of 2'
    ):
        EndlessBatches(make_loader(1, drop_last=True))
