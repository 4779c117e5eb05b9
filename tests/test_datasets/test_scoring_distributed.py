"""Scoring and selection on two processes that talk by gloo."""

import numpy as np
import pytest
import torch
from ddp import run_processes
from mmengine.dist import get_rank
from mmengine.registry import init_default_scope
from toy_runs import PREPROCESSOR, classifier, make_dataset, save_teacher

from mmkd_plugin.datasets import (
    AdaptiveThresholdSampler,
    EntropySubsetSampler,
)
from mmkd_plugin.datasets.scoring import cached_scores, score_dataset


def simple(batch):
    # As precise as can be, so that one process and two can be compared.
    pixels = batch['inputs'].flatten(1).double()
    return torch.stack([pixels.mean(1), pixels[:, 5], pixels[:, 9]], 1) / 40


def broken_on_the_last(batch):
    logits = simple(batch)
    logits[batch['sample_idx'] == 10] = torch.nan
    return logits


def raised(function, *args, **kwargs):
    """What a call raised, as text, so that no rank is lost."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return None


def sampler(ckpt, cache=None, num_samples=7, **kwargs):
    return build(
        AdaptiveThresholdSampler,
        ckpt,
        cache,
        num_samples=num_samples,
        gamma=0.8,
        **kwargs,
    )


def build(kind, ckpt, cache, **kwargs):
    init_default_scope('mmpretrain')
    built = kind(
        make_dataset(21),
        teacher=classifier(),
        teacher_ckpt=ckpt,
        data_preprocessor=PREPROCESSOR,
        cache_file=cache,
        **kwargs,
    )
    epochs = []
    for epoch in range(3):
        built.set_epoch(epoch)
        epochs.append(list(built))
    return dict(
        indices=built.indices.tolist(),
        uncertainty=built.scores.uncertainty,
        entropy=built.scores.entropy,
        length=len(built),
        seed=built.seed,
        epochs=epochs,
    )


def fails_on_rank_0():
    if get_rank() == 0:
        raise LookupError('only here')
    return dict(teacher='a')


def never():
    raise AssertionError('scored')


def on_a_rank(rank, folder, ckpt):
    # The ranks must not agree just because they draw the same numbers.
    np.random.seed(rank)
    torch.manual_seed(rank)
    answer = {}
    for num in (11, 2, 1):
        scores = score_dataset(simple, make_dataset(num), batch_size=4)
        answer[f'scores of {num}'] = scores
    answer['nan'] = raised(score_dataset, broken_on_the_last, make_dataset(11))
    cache = f'{folder}/scores.npz'
    answer['made'] = sampler(ckpt, cache)
    answer['drawn'] = sampler(ckpt, cache, order='random', seed=None)
    # Without a cache every rank scores its share, with it nobody does.
    for name, path in (('entropy', None), ('entropy, cached', cache)):
        answer[name] = build(
            EntropySubsetSampler, ckpt, path, num_samples=7, seed=4
        )
    answer['stale'] = raised(
        cached_scores, never, cache, lambda: dict(teacher='another')
    )
    answer['key'] = raised(cached_scores, never, cache, fails_on_rank_0)
    if rank == 0:
        with open(f'{folder}/damaged.npz', 'wb') as file:
            file.write(b'PK\x03\x04')
    answer['damaged'] = raised(
        cached_scores, never, f'{folder}/damaged.npz', dict
    )
    return answer


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    ckpt = save_teacher(folder / 'teacher.pth')
    return ckpt, run_processes(on_a_rank, folder, str(folder), ckpt)


@pytest.mark.parametrize('num', [11, 2, 1])
def test_shares_of_ranks_make_up_the_whole(answers, num):
    alone = score_dataset(simple, make_dataset(num), batch_size=4)
    for answer in answers[1]:
        scores = answer[f'scores of {num}']
        assert scores.uncertainty.tolist() == alone.uncertainty.tolist()
        assert scores.entropy.tolist() == alone.entropy.tolist()
        assert scores.predicted.tolist() == alone.predicted.tolist()
        assert scores.num_classes == 3


def test_every_rank_selects_the_same(answers):
    ckpt, ranks = answers
    one, two = (answer['made'] for answer in ranks)
    alone = sampler(ckpt, seed=one['seed'])
    assert one['indices'] == two['indices'] == alone['indices']
    assert one['uncertainty'] == pytest.approx(alone['uncertainty'])
    # Nobody gave a seed, still they have one.
    assert one['seed'] == two['seed']
    one, two = (answer['drawn'] for answer in ranks)
    assert one['indices'] == two['indices']
    assert len(one['indices']) == 7


def test_ranks_share_every_epoch(answers):
    ckpt, ranks = answers
    one, two = (answer['made'] for answer in ranks)
    alone = sampler(ckpt, seed=one['seed'])
    assert one['length'] == two['length'] == 4
    for first, second, order in zip(
        one['epochs'], two['epochs'], alone['epochs'], strict=True
    ):
        assert len(first) == len(second) == 4
        mixed = [i for pair in zip(first, second, strict=True) for i in pair]
        # Seven images on two ranks: the first is there twice.
        assert mixed == [*order, order[0]]
        assert sorted(mixed[:7]) == one['indices']
    assert len({tuple(epoch) for epoch in one['epochs']}) == 3


def test_the_subset_by_entropy_is_that_of_one_process(answers):
    ckpt, ranks = answers
    alone = build(EntropySubsetSampler, ckpt, None, num_samples=7, seed=4)
    assert alone['indices'] == sorted(np.argsort(-alone['entropy'])[:7])
    for name in ('entropy', 'entropy, cached'):
        one, two = (answer[name] for answer in ranks)
        assert one['indices'] == two['indices'] == alone['indices']
        assert one['entropy'].tolist() == two['entropy'].tolist()
        assert one['entropy'] == pytest.approx(alone['entropy'])
        for first, second, order in zip(
            one['epochs'], two['epochs'], alone['epochs'], strict=True
        ):
            mixed = np.stack([first, second], 1).flatten().tolist()
            assert mixed == [*order, order[0]]


@pytest.mark.parametrize(
    ('case', 'text'),
    [
        ('nan', 'infinite logits for 1 of 11 images, first for image 10'),
        ('stale', 'was made with another teacher'),
        ('key', 'LookupError: only here'),
        ('damaged', 'cannot be read'),
    ],
)
def test_errors_reach_all_ranks(answers, case, text):
    for answer in answers[1]:
        assert text in answer[case]
