"""The baseline of every selection, and what it shares with the others."""

import pytest
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from toy_runs import Watcher, build_runner, classifier, loader, make_dataset

from mmkd_plugin.datasets import RandomSubsetSampler


def build(num_samples=6, num=20, seed=3, **kwargs):
    return RandomSubsetSampler(
        range(num), num_samples=num_samples, seed=seed, **kwargs
    )


def test_registered():
    assert DATA_SAMPLERS.get('RandomSubsetSampler') is RandomSubsetSampler


def test_the_choice_depends_on_the_seed_alone():
    one, same, other = (build(seed=seed).indices for seed in (3, 3, 4))
    assert one.tolist() == same.tolist() != other.tolist()
    assert sorted(set(one.tolist())) == one.tolist()
    assert len(one) == 6
    one, two = build(), build(shuffle=False)
    assert one.indices.tolist() == two.indices.tolist() == list(two)


def test_every_image_can_be_chosen():
    chosen = set()
    for seed in range(40):
        chosen.update(build(seed=seed).indices.tolist())
    assert chosen == set(range(20))


def test_all_where_there_are_fewer():
    assert build(num_samples=99).indices.tolist() == list(range(20))


@pytest.mark.parametrize(
    ('num_samples', 'match'),
    [
        (0, 'num_samples must be .* >= 1, but got 0'),
        (-1, 'but got -1'),
        (1.5, 'num_samples must be an integer, but got 1.5'),
        (True, 'but got True'),
        (None, 'but got None'),
    ],
)
def test_wrong_number_of_samples(num_samples, match):
    with pytest.raises(ValueError, match=match):
        build(num_samples=num_samples)
    with pytest.raises(ValueError, match=match):
        RandomSubsetSampler.check_options(
            num_samples=num_samples, shuffle=True
        )


@pytest.mark.parametrize(
    ('num_samples', 'world_size'), [(6, 2), (7, 2), (7, 3), (1, 4), (3, 8)]
)
def test_ranks_share_an_epoch(num_samples, world_size):
    """Every image once, but for the first ones, which fill up."""
    whole = build(num_samples)
    ranks = []
    for rank in range(world_size):
        sampler = build(num_samples)
        sampler.rank, sampler.world_size = rank, world_size
        ranks.append(sampler)
    for epoch in (0, 1):
        whole.set_epoch(epoch)
        order = list(whole)
        shares = []
        for sampler in ranks:
            sampler.set_epoch(epoch)
            shares.append(list(sampler))
            assert len(shares[-1]) == len(sampler)
        assert len({len(share) for share in shares}) == 1
        together = [
            share[i] for i in range(len(shares[0])) for share in shares
        ]
        assert together[:num_samples] == order
        filled = len(together) - num_samples
        assert filled < world_size
        assert together[num_samples:] == (order * world_size)[:filled]


def test_built_by_the_runner():
    config = loader(
        make_dataset(20),
        sampler=dict(type='RandomSubsetSampler', num_samples=6),
    )
    data = Runner.build_dataloader(config, seed=9)
    seen = [i for batch in data for i in batch['sample_idx'].tolist()]
    assert sorted(seen) == build(seed=9).indices.tolist()
    # Seeds that differ from rank to rank are drawn, and sent to all.
    drawn = Runner.build_dataloader(config, seed=9, diff_rank_seed=True)
    assert isinstance(drawn.sampler.seed, int)


def test_in_a_run(tmp_path):
    watcher = Watcher()
    runner = build_runner(
        tmp_path,
        classifier(data_preprocessor=dict(type='BatchAugDataPreprocessor')),
        loader(
            make_dataset(20),
            sampler=dict(type='RandomSubsetSampler', num_samples=8),
        ),
        [watcher],
    )
    runner.train()
    epochs = [watcher.images[i] + watcher.images[i + 1] for i in (0, 2)]
    assert epochs[0] != epochs[1]
    assert [sorted(e) for e in epochs] == [
        build(8, seed=5).indices.tolist()
    ] * 2
