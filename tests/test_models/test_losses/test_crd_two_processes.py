"""Two real processes against one with the joint batch, in float64."""

from types import SimpleNamespace

import pytest
import torch
from contracts.contrast import DATASET_LABELS
from ddp import run_processes
from mmengine.hooks import SyncBuffersHook
from mmengine.logging import MessageHub
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from mmkd_plugin.models import CRDLoss, PredictionStore

EXACT = dict(rtol=1e-10, atol=1e-10)
SIZE, STEPS = len(DATASET_LABELS), 3


class Student(nn.Module):
    """Two things that remember the data set, beside a linear map."""

    def __init__(self, rank):
        super().__init__()
        # DDP gives all the parts of the first one.
        torch.manual_seed(rank or 0)
        self.net = nn.Linear(6, 3)
        self.loss = CRDLoss(
            student_channels=3,
            teacher_channels=5,
            num_samples=SIZE,
            feat_dim=4,
            num_negatives=6,
            tau=0.3,
        )
        self.store = PredictionStore(SIZE, 3)
        self.double()

    def forward(self, x, preds_T, sample_idx):
        logits = self.net(x)
        self.store.write(sample_idx, logits)
        return self.loss(logits, preds_T, sample_idx)


def batch(step):
    generator = torch.Generator().manual_seed(step)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Never the last sample, so that one is not seen.
    index = torch.randperm(SIZE - 1, generator=generator)[:6]
    return numbers(6, 6), numbers(6, 5), index


def everything(rank):
    """Some steps, then the end of an epoch, then one more step.

    One process has the whole batch, where ``rank`` is None.
    """
    # As with diff_rank_seed.
    hub = MessageHub.get_instance('crd_two_processes')
    hub.update_info('seed', 7 + (rank or 0))
    model = Student(rank)
    wrapped = model
    if rank is not None:
        wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    # The hook hands them over when the model has been wrapped.
    model.loss.set_dataset_labels(DATASET_LABELS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []

    def step(number):
        optimizer.zero_grad()
        inputs = batch(number)
        if rank is not None:
            inputs = [value.chunk(2)[rank] for value in inputs]
        value = wrapped(*inputs)
        value.backward()
        optimizer.step()
        found.append(
            dict(
                value=value.item(),
                gradients={k: p.grad for k, p in model.named_parameters()},
                state={k: v.clone() for k, v in model.state_dict().items()},
            )
        )

    for number in range(STEPS):
        step(number)
    before = {name: b.clone() for name, b in model.named_buffers()}
    SyncBuffersHook().after_train_epoch(SimpleNamespace(model=wrapped))
    after = {name: b.clone() for name, b in model.named_buffers()}
    step(STEPS)
    return dict(steps=found, before=before, after=after)


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found; they are started once for all tests."""
    return run_processes(everything, tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='module')
def joint():
    yield everything(None)
    MessageHub._instance_dict.pop('crd_two_processes')


def test_steps_are_those_of_the_joint_batch(ranks, joint):
    assert len(joint['steps']) == STEPS + 1
    for number, expected in enumerate(joint['steps']):
        found = [rank['steps'][number] for rank in ranks]
        mean = sum(step['value'] for step in found) / 2
        assert mean == pytest.approx(expected['value'], rel=1e-10)
        assert found[0]['value'] != found[1]['value']
        for step in found:
            assert_close(step['gradients'], expected['gradients'], **EXACT)
            assert_close(step['state'], expected['state'], **EXACT)
        assert_close(found[0]['state'], found[1]['state'], rtol=0, atol=0)
    # Every parameter took part, and the constants stayed.
    for gradient in joint['steps'][0]['gradients'].values():
        assert gradient.abs().sum() > 1e-3
    first, last = (joint['steps'][i]['state'] for i in (0, -1))
    assert torch.equal(first['loss.log_z'], last['loss.log_z'])
    for name in ('loss.memory_S.rows', 'loss.memory_T.rows', 'store.probs'):
        assert not torch.equal(first[name], last[name])


def test_the_engine_averages_buffers_without_harm(ranks):
    for rank in ranks:
        assert set(rank['before']) == {
            'loss.log_z',
            'loss.labels',
            'loss.class_order',
            'loss.class_first',
            'loss.class_count',
            'loss.memory_S.rows',
            'loss.memory_T.rows',
            'store.probs',
            'store.seen',
        }
        assert_close(rank['after'], rank['before'], rtol=0, atol=0)
        assert rank['after']['loss.labels'].tolist() == DATASET_LABELS
        seen = rank['after']['store.seen']
        assert seen.dtype == torch.bool
        assert seen.any() and not seen.all()
