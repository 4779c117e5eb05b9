"""Batches that begin with the images of the one before."""

from itertools import islice, pairwise

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import DistSamplerSeedHook
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from toy_runs import loader, make_dataset

from mmkd_plugin.datasets import LastBatchSampler


def test_registered():
    assert DATA_SAMPLERS.get('LastBatchSampler') is LastBatchSampler


@pytest.mark.parametrize(
    ('count', 'size', 'drop_last', 'expected'),
    [
        (6, 2, False, [[0, 1], [0, 1, 2, 3], [2, 3, 4, 5]]),
        (6, 2, True, [[0, 1], [0, 1, 2, 3], [2, 3, 4, 5]]),
        (5, 2, False, [[0, 1], [0, 1, 2, 3], [2, 3, 4]]),
        (5, 2, True, [[0, 1], [0, 1, 2, 3]]),
        (3, 1, True, [[0], [0, 1], [1, 2]]),
        (2, 3, False, [[0, 1]]),
        (2, 3, True, []),
        (0, 3, False, []),
    ],
)
def test_batches(count, size, drop_last, expected):
    sampler = LastBatchSampler(range(count), size, drop_last=drop_last)
    for _ in range(2):
        assert list(sampler) == expected
    assert len(sampler) == len(expected)


def test_endless_sampler():
    sampler = LastBatchSampler(InfiniteSampler(range(5), seed=1), 2)
    batches = list(islice(sampler, 9))
    assert len(batches[0]) == 2
    for last, batch in pairwise(batches):
        assert batch[:2] == last[-2:]
        assert len(batch) == 4
    # It draws as without.
    drawn = [i for batch in batches for i in batch[-2:]]
    assert drawn == list(islice(InfiniteSampler(range(5), seed=1), 18))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(batch_size=0), 'batch_size must be .* got 0'),
        (dict(batch_size=2.0), r'batch_size must be .* got 2\.0'),
        (dict(batch_size=2, drop_last=1), 'drop_last must be .* got 1'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        LastBatchSampler(range(4), **options)


def test_loader_of_the_runner():
    config = loader(
        make_dataset(11),
        shuffle=True,
        batch_sampler=dict(type='LastBatchSampler', drop_last=True),
    )
    data = Runner.build_dataloader(config, seed=3)
    assert isinstance(data.batch_sampler, LastBatchSampler)
    assert isinstance(data.batch_sampler.sampler, DefaultSampler)
    epochs = []
    for epoch in (0, 1):
        runner = type('', (), dict(epoch=epoch, train_loop=None))()
        runner.train_loop = type('', (), dict(dataloader=data))()
        # As in each epoch of a run.
        DistSamplerSeedHook().before_train_epoch(runner)
        batches = list(data)
        assert [len(b['sample_idx']) for b in batches] == [4, 8]
        first, second = (batch['sample_idx'] for batch in batches)
        assert second[:4].equal(first)
        assert len(set(second.tolist())) == 8
        # The same images, loaded twice.
        assert torch.equal(batches[1]['inputs'][:4], batches[0]['inputs'])
        epochs.append(second.tolist())
    assert len(data) == 2
    assert epochs[0] != epochs[1]
