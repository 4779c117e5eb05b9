"""Two real processes against one with the joint batch, in float64."""

import pytest
import torch
from ddp import run_processes
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from toys import algorithm, eeikd_distiller, teacher

from mmkd_plugin.models import StructuredRelationLoss

EXACT = dict(rtol=1e-10, atol=1e-12)
SPACES = ('prob', 'logit')


def batch():
    generator = torch.Generator().manual_seed(5)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return dict(
        x=numbers(8, 6),
        preds_T=2 * numbers(8, 5),
        images=numbers(8, 3, 8, 8),
        labels=torch.arange(8) % 5,
    )


def share(rank, value):
    return value if rank is None else value.chunk(2)[rank]


def relation_step(rank, space, gather):
    """One backward pass; all of the batch where ``rank`` is None."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)).double()
    loss = StructuredRelationLoss(space=space, gather=gather, loss_weight=3.0)
    data = {key: share(rank, value) for key, value in batch().items()}
    forward = net
    if rank is not None:
        forward = DistributedDataParallel(net, find_unused_parameters=False)
    value = loss(forward(data['x']), data['preds_T'])
    value.backward()
    return dict(
        value=value.detach(),
        gradients=[p.grad.clone() for p in net.parameters()],
    )


def half_precision_step(rank):
    """Gather half precision logits, and none at all."""
    loss = StructuredRelationLoss(gather=True)
    found = {}
    for dtype in (torch.float16, torch.bfloat16):
        preds_S = share(rank, batch()['x']).to(dtype).requires_grad_()
        value = loss(preds_S, share(rank, batch()['preds_T']).to(dtype))
        value.backward()
        found[dtype] = (value.dtype, value.item(), preds_S.grad.dtype)
    nothing = torch.zeros(0, 5, requires_grad=True)
    value = loss(nothing, torch.zeros(0, 5))
    value.backward()
    found['empty'] = (value.item(), nothing.grad.shape)
    return found


def whole_step(rank):
    """A step of the whole algorithm, then two more in training mode."""
    model = algorithm(
        distiller=eeikd_distiller(gather=True),
        calculate_student_loss=True,
        teacher=teacher(),
    ).double()
    data = batch()
    data = dict(
        inputs=share(rank, data['images']),
        data_samples=[
            DataSample().set_gt_label(label)
            for label in share(rank, data['labels'])
        ],
    )
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapped = model
    if rank is not None:
        wrapped = MMDistributedDataParallel(
            model, find_unused_parameters=False
        )
    # Batch statistics are those of a process.
    model.eval()
    logs = [wrapped.train_step(data, optimizer)]
    exact = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    for _ in range(2):
        logs.append(wrapped.train_step(data, optimizer))
    return dict(
        logs=[{k: v.item() for k, v in log.items()} for log in logs],
        exact=exact,
        weights={k: p.detach() for k, p in model.named_parameters()},
        names=[name for name, _ in wrapped.named_parameters()],
        teacher=model.teacher.state_dict(),
    )


def everything(rank):
    return dict(
        relation={
            (space, gather): relation_step(rank, space, gather)
            for space in SPACES
            for gather in (True, False)
        },
        half=half_precision_step(rank),
        step=whole_step(rank),
    )


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found; they are started once for all tests."""
    return run_processes(everything, tmp_path_factory.mktemp('ranks'))


@pytest.mark.parametrize('space', SPACES)
def test_gathered_relations_are_those_of_the_joint_batch(ranks, space):
    expected = relation_step(None, space, True)
    assert expected['value'] > 1e-4
    for rank in ranks:
        found = rank['relation'][space, True]
        assert_close(found, expected, **EXACT)


@pytest.mark.parametrize('space', SPACES)
def test_relations_are_local_unless_gathered(ranks, space):
    expected = relation_step(None, space, False)['value']
    values = [rank['relation'][space, False]['value'] for rank in ranks]
    assert values[0] != values[1]
    assert expected not in values


def test_half_precision_and_empty_batches_are_gathered(ranks):
    for rank in ranks:
        for dtype in (torch.float16, torch.bfloat16):
            kind, value, gradient = rank['half'][dtype]
            assert kind == torch.float32
            assert gradient == dtype
            assert value == ranks[0]['half'][dtype][1]
        assert rank['half']['empty'] == (0, (0, 5))


def test_whole_step_is_that_of_the_joint_batch(ranks):
    expected = whole_step(None)
    found = [rank['step'] for rank in ranks]
    for rank in found:
        assert_close(rank['exact'], expected['exact'], **EXACT)
    for name, value in expected['logs'][0].items():
        mean = sum(rank['logs'][0][name] for rank in found) / 2
        assert mean == pytest.approx(value, rel=1e-10), name
    relation = 'distill.loss_relation'
    assert found[0]['logs'][0][relation] == pytest.approx(
        expected['logs'][0][relation], rel=1e-10
    )


def test_ranks_stay_equal_in_training(ranks):
    one, two = (rank['step'] for rank in ranks)
    assert one['logs'][2] != two['logs'][2]
    assert one['logs'][2]['loss'] < one['logs'][1]['loss']
    assert_close(one['weights'], two['weights'], rtol=0, atol=0)
    assert not torch.equal(
        one['weights']['student.head.fc.weight'],
        one['exact']['student.head.fc.weight'],
    )


def test_teacher_takes_no_part(ranks):
    before = teacher().double().state_dict()
    for rank in ranks:
        assert_close(rank['step']['teacher'], before, rtol=0, atol=0)
        assert all('student' in name for name in rank['step']['names'])
