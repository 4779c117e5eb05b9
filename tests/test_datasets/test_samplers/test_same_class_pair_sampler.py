"""Pairs of one class, over epochs and ranks."""

import numpy as np
import pytest
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from toy_runs import loader, make_dataset

from mmkd_plugin.datasets import SameClassPairSampler

# Classes of 5, 3, 2 and 1 images, mixed.
LABELS = np.array([0, 7, 0, 3, 0, 7, 0, 3, 9, 7, 0])


class Labeled:
    """A data set that is never read, only its labels are."""

    def __init__(self, labels=LABELS):
        self.labels = labels

    def __len__(self):
        return len(self.labels)


def build(labels=LABELS, rank=0, world_size=1, epoch=0, seed=3, **kwargs):
    sampler = SameClassPairSampler(Labeled(labels), seed=seed, **kwargs)
    sampler.rank, sampler.world_size = rank, world_size
    sampler.set_epoch(epoch)
    return sampler


def pairs(**kwargs):
    sampler = build(**kwargs)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    assert all(type(index) is int for index in drawn)
    return list(zip(drawn[0::2], drawn[1::2], strict=True))


def test_registered():
    assert DATA_SAMPLERS.get('SameClassPairSampler') is SameClassPairSampler


def test_every_image_with_another_one_of_its_class():
    for epoch in range(20):
        drawn = pairs(epoch=epoch)
        assert sorted(first for first, _ in drawn) == list(range(11))
        for first, second in drawn:
            assert LABELS[first] == LABELS[second]
            assert (first == second) == (first == 8)


def test_all_others_are_drawn_alike():
    """The four others of an image, over many epochs."""
    counts = np.zeros((11, 11))
    for epoch in range(400):
        for first, second in pairs(epoch=epoch):
            counts[first, second] += 1
    others = [i for i in np.flatnonzero(LABELS == 0) if i != 4]
    # 100 expected, deviation 8.7.
    assert (abs(counts[4, others] - 100) < 45).all()
    assert counts[4].sum() == 400 == counts[3, 7] == counts[8, 8]


def test_seed_and_epoch():
    assert pairs() == pairs()
    assert pairs(epoch=1) == pairs(epoch=1) != pairs()
    assert pairs(seed=4) != pairs()
    # Epochs without shuffling differ in the partners alone.
    plain = [pairs(shuffle=False, epoch=epoch) for epoch in (0, 1)]
    for drawn in plain:
        assert [first for first, _ in drawn] == list(range(11))
    assert plain[0] != plain[1]


@pytest.mark.parametrize('world_size', [2, 3, 11, 16])
def test_ranks_share_an_epoch(world_size):
    for epoch in (0, 5):
        whole = pairs(epoch=epoch)
        shares = [
            pairs(rank=rank, world_size=world_size, epoch=epoch)
            for rank in range(world_size)
        ]
        assert len({len(share) for share in shares}) == 1
        together = [
            share[i] for i in range(len(shares[0])) for share in shares
        ]
        assert together[:11] == whole
        filled = len(together) - 11
        assert filled < world_size
        assert together[11:] == (whole * world_size)[:filled]


def test_images_alone_are_counted():
    assert build().num_alone == 1
    assert build(np.array([2, 2, 5, 5])).num_alone == 0
    lonely = build(np.arange(4))
    assert lonely.num_alone == 4
    assert sorted(zip(*[iter(lonely)] * 2, strict=True)) == [
        (i, i) for i in range(4)
    ]


def test_labels_of_mmpretrain():
    class Wrapped(list):
        def get_gt_labels(self):
            return LABELS

    sampler = SameClassPairSampler(Wrapped(range(11)), seed=3)
    assert list(sampler) == list(build())


def test_no_labels():
    unlabeled = make_dataset(6, labels=False)
    with pytest.raises(ValueError, match=r'got ArrayImages, .* labeled'):
        SameClassPairSampler(unlabeled)

    class Unlabeled(list):
        def get_gt_labels(self):
            raise KeyError('gt_label')

    with pytest.raises(ValueError, match='got Unlabeled, which'):
        SameClassPairSampler(Unlabeled('ab'))
    with pytest.raises(ValueError, match='got range, which'):
        SameClassPairSampler(range(4))


def test_labels_that_do_not_fit():
    dataset = Labeled(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r'shape \(4, 2\) for 4 images'):
        SameClassPairSampler(dataset)


def test_batches_of_the_runner():
    dataset = make_dataset(20)
    config = loader(
        dataset, sampler=dict(type='SameClassPairSampler'), batch_size=4
    )
    data = Runner.build_dataloader(config, seed=9)
    assert isinstance(data.sampler, SameClassPairSampler)
    labels = np.concatenate([b['gt_label'].numpy() for b in data])
    assert len(labels) == 40
    assert (labels[0::2] == labels[1::2]).all()
    assert len(set(labels.tolist())) > 1
