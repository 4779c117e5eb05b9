"""Two real processes of self-distillation against one, in float64.

The processes have a half of the joint batch each.
"""

import pytest
import torch
from ddp import run_processes
from mmengine import dist
from mmengine.model import MMDistributedDataParallel
from torch.testing import assert_close
from toy_self import build, samples, train_step

EXACT = dict(rtol=1e-9, atol=1e-11)
# What the stores keep is rounded to float32 before it is softened.
ROUNDED = dict(rtol=1e-6, atol=1e-8)
LABELS = torch.tensor([1, 1, 0, 0, 3, 3, 2, 2, 4, 4, 0, 0])
# In the second step every image of PS-KD is on the other rank.
ORDERS = dict(
    PSKD=[
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[7, 5, 8, 4], [2, 9, 0, 1]],
        [[10, 5, 8, 0], [2, 11, 7, 1]],
    ],
    # Two new images a rank, after those of the step before.
    DLB=[
        [[0, 1], [2, 3]],
        [[0, 1, 4, 5], [2, 3, 6, 7]],
        [[4, 5, 8], [6, 7, 9]],
    ],
    # Pairs, which stay together.
    CSKD=[
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[7, 6, 8, 9], [2, 3, 0, 1]],
    ],
)
OPTIONS = dict(
    PSKD=dict(loss=dict(alpha=0.5)), DLB=dict(batch_size=2), CSKD={}
)


def images(index):
    """Make images that differ; an image is the same in all steps."""
    generator = torch.Generator().manual_seed(5)
    made = torch.randn(12, 3, 8, 8, generator=generator, dtype=torch.float64)
    return made[index]


def joint_order(name, order, size=2):
    """Put the batches of the ranks together as one process has them."""
    if name != 'DLB' or len(order[0]) == size:
        return order[0] + order[1]
    again = [i for part in order for i in part[:size]]
    return again + [i for part in order for i in part[size:]]


def make(name, rank):
    options = dict(OPTIONS[name])
    if rank is None and name == 'DLB':
        options.update(batch_size=4)
    model = build(name, **options).double()
    # Batch statistics are those of a process.
    return model.eval()


def run(rank, name):
    """Train for some steps; on all images where ``rank`` is None."""
    model = make(name, rank)
    forward = model
    if rank is not None:
        forward = MMDistributedDataParallel(
            model, find_unused_parameters=False
        )
    logs, checkpoint = [], None
    for number, order in enumerate(ORDERS[name]):
        index = joint_order(name, order) if rank is None else order[rank]
        if number == len(ORDERS[name]) - 1:
            checkpoint = {k: v.clone() for k, v in model.state_dict().items()}
        given = samples(index, LABELS[index])
        logs.append(train_step(model, images(index), given, forward=forward))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    # What mmengine's SyncBuffersHook does.
    dist.all_reduce_params(model.buffers(), op='mean')
    return dict(
        logs=logs,
        state=state,
        averaged=model.state_dict(),
        resumed=resume(rank, name, checkpoint, index),
        gradients={k: p.grad for k, p in model.named_parameters()},
    )


def resume(rank, name, checkpoint, index):
    """Make the last step anew, all ranks from rank 0's checkpoint."""
    given = [checkpoint]
    if rank is not None:
        dist.broadcast_object_list(given)
    model = make(name, rank)
    model.load_state_dict(given[0])
    forward = model
    if rank is not None:
        forward = MMDistributedDataParallel(
            model, find_unused_parameters=False
        )
    given = samples(index, LABELS[index])
    train_step(model, images(index), given, forward=forward)
    return model.state_dict()


def everything(rank):
    return {name: run(rank, name) for name in ORDERS}


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found; they are started once for all tests."""
    return run_processes(everything, tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='module')
def joint():
    """What one process finds with the batches of both."""
    return everything(None)


schemes = pytest.mark.parametrize('name', ORDERS)


@schemes
def test_gradients_are_those_of_the_joint_batch(ranks, joint, name):
    expected = joint[name]['gradients']
    assert len(expected) > 10
    tolerance = ROUNDED if name == 'PSKD' else EXACT
    for rank in ranks:
        found = rank[name]['gradients']
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert value.abs().max() > 0, key
            assert_close(found[key], value, **tolerance)


@schemes
def test_log_is_that_of_the_joint_batch(ranks, joint, name):
    for number, expected in enumerate(joint[name]['logs']):
        past = number or name == 'CSKD'
        assert (expected['distill.loss_self'] > 0) == bool(
            past or name == 'PSKD'
        )
        for key, value in expected.items():
            mean = sum(rank[name]['logs'][number][key] for rank in ranks) / 2
            assert mean == pytest.approx(value, rel=1e-6), key


@schemes
def test_states_are_equal_on_all_ranks(ranks, joint, name):
    one, two = (rank[name]['state'] for rank in ranks)
    assert_close(one, two, rtol=0, atol=0)
    if name != 'DLB':
        assert_close(one, joint[name]['state'], **ROUNDED)


def test_store_of_the_last_batch(ranks, joint):
    """Its rows are rank by rank, with a free one after each."""
    found, expected = ranks[0]['DLB']['state'], joint['DLB']['state']
    assert found['store.sample_idx'].tolist() == [8, -1, 9, -1]
    assert expected['store.sample_idx'].tolist() == [8, 9, -1, -1]
    assert_close(
        found['store.logits'][[0, 2]],
        expected['store.logits'][:2],
        **ROUNDED,
    )


def test_all_that_was_seen_is_stored(ranks):
    seen = ranks[0]['PSKD']['state']['store.seen']
    assert seen.tolist() == [True] * 12


@schemes
def test_averaging_the_buffers_changes_nothing(ranks, name):
    for rank in ranks:
        averaged, state = rank[name]['averaged'], rank[name]['state']
        assert_close(averaged, state, rtol=0, atol=0)


@schemes
def test_checkpoint_of_rank_0_is_right_for_all(ranks, name):
    for rank in ranks:
        assert_close(
            rank[name]['resumed'], rank[name]['state'], rtol=0, atol=0
        )
