"""CRD over several steps, against plain loops and plain autograd."""

import copy
import math
import pickle
import sys

import pytest
import torch
from contracts.base import dot, unit_row
from contracts.contrast import (
    DATASET_LABELS,
    embedded_reference,
    negatives_reference,
    side_reference,
)
from mmengine.logging import MessageHub
from torch import nn
from torch.nn.functional import normalize
from torch.testing import assert_close

from mmkd_plugin.models import CRDLoss, crd_log_z, crd_loss

SIZE = len(DATASET_LABELS)
EXACT = dict(rtol=1e-10, atol=1e-10)
TAU, NEGATIVES = 0.3, 6


@pytest.fixture(autouse=True)
def hub(seed):
    """A message hub without a run, the current one in the test."""
    hub = MessageHub.get_instance('crd_loss')
    yield hub
    MessageHub._instance_dict.pop('crd_loss')


def build(seed=0, labels=True, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    options = {
        **dict(
            student_channels=3,
            teacher_channels=5,
            num_samples=SIZE,
            feat_dim=4,
            num_negatives=NEGATIVES,
            tau=TAU,
        ),
        **options,
    }
    loss = CRDLoss(**options).to(dtype)
    if labels:
        loss.set_dataset_labels(DATASET_LABELS)
    return loss


def batch(step=0, count=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    return dict(
        preds_S=torch.randn(count, 3, generator=generator).to(dtype),
        preds_T=torch.randn(count, 5, generator=generator).to(dtype),
        sample_idx=torch.randperm(SIZE, generator=generator)[:count],
    )


def state(loss):
    return copy.deepcopy(loss.state_dict())


def changed(loss, before):
    """List what is not what it was."""
    return {
        name
        for name, value in loss.state_dict().items()
        if not torch.equal(value.nan_to_num(), before[name].nan_to_num())
    }


class PlainCRD:
    """The loss of step after step in plain loops."""

    def __init__(self, loss, labels=DATASET_LABELS, seed=0):
        self.loss, self.labels, self.seed = loss, labels, seed
        self.memories = [
            loss.memory_S.rows.tolist(),
            loss.memory_T.rows.tolist(),
        ]
        self.log_z = None

    def step(self, step, preds_S, preds_T, sample_idx):
        samples = sample_idx.tolist()
        negatives = [
            negatives_reference(
                self.seed, step, i, NEGATIVES, SIZE, self.labels
            )
            for i in samples
        ]
        sides = [
            embedded_reference(rows, layer.weight, layer.bias)
            for rows, layer in (
                (preds_S, self.loss.embed_S),
                (preds_T, self.loss.embed_T),
            )
        ]
        pairs = list(zip(sides, reversed(self.memories), strict=True))
        if self.log_z is None:
            self.log_z = [
                self.log_normaliser(anchors, memory, samples, negatives)
                for anchors, memory in pairs
            ]
        total = sum(
            side_reference(anchors, memory, samples, negatives, log_z, TAU)
            for (anchors, memory), log_z in zip(pairs, self.log_z, strict=True)
        )
        for memory, rows in zip(self.memories, sides, strict=True):
            for i, row in zip(samples, rows, strict=True):
                memory[i] = unit_row(
                    [
                        (old + new) / 2
                        for old, new in zip(memory[i], row, strict=True)
                    ]
                )
        return total / len(samples)

    @staticmethod
    def log_normaliser(anchors, memory, samples, negatives):
        exponentials = [
            math.exp(dot(anchor, memory[j]) / TAU)
            for anchor, i, others in zip(
                anchors, samples, negatives, strict=True
            )
            for j in (i, *others)
        ]
        return math.log(SIZE * sum(exponentials) / len(exponentials))


@pytest.mark.parametrize('negatives', ['other_classes', 'all_samples'])
def test_steps_are_those_of_plain_loops(negatives):
    loss = build(negatives=negatives, loss_weight=0.8)
    labels = DATASET_LABELS if negatives == 'other_classes' else None
    plain = PlainCRD(loss, labels)
    assert loss.log_z.isnan().all()
    for step in range(3):
        inputs = batch(step)
        assert loss(**inputs).item() == pytest.approx(
            0.8 * plain.step(step, **inputs), rel=1e-10
        )
        assert_close(loss.log_z.tolist(), plain.log_z, **EXACT)
        found = [loss.memory_S.rows.tolist(), loss.memory_T.rows.tolist()]
        assert_close(found, plain.memories, **EXACT)


def plain_loss(embedded_S, embedded_T, memory_S, memory_T, index, log_z, tau):
    """The formula for autograd: rows of copies, exponentials, logarithms."""
    total = 0
    for anchors, memory, z in (
        (embedded_S, memory_T, log_z[0].exp()),
        (embedded_T, memory_S, log_z[1].exp()),
    ):
        products = torch.einsum('nd,nkd->nk', anchors, memory[index])
        p = (products / tau).exp() / z
        h = p / (p + (index.shape[1] - 1) / len(memory))
        total = total - h[:, 0].log().sum() - (1 - h[:, 1:]).log().sum()
    return total / len(index)


@pytest.fixture(params=['all_rows', 'gather', 'gather_blocks'])
def way(request, monkeypatch):
    """The way to the products."""
    module = sys.modules[CRDLoss.__module__]
    monkeypatch.setattr(
        module, '_ALL_ROWS', 1e9 if request.param == 'all_rows' else 0
    )
    # Two samples at once, then one; or all of them.
    if request.param == 'gather_blocks':
        monkeypatch.setattr(module, '_BLOCK', 2 * 4 * (1 + NEGATIVES))


def test_gradient(way):
    """Of a step that has moved the memories before the backward pass."""
    loss = build()
    loss(**batch(0))
    other = copy.deepcopy(loss)
    inputs = batch(1, count=5)
    inputs['preds_S'].requires_grad_()
    value = loss(**inputs)
    assert changed(loss, other.state_dict()) == {
        'memory_S.rows',
        'memory_T.rows',
    }
    value.backward()
    found = [inputs['preds_S'].grad, *(p.grad for p in loss.parameters())]

    twin = batch(1, count=5)
    twin['preds_S'].requires_grad_()
    samples = twin['sample_idx'].tolist()
    index = torch.tensor(
        [
            [i, *negatives_reference(0, 1, i, NEGATIVES, SIZE, DATASET_LABELS)]
            for i in samples
        ]
    )
    expected = plain_loss(
        normalize(other.embed_S(twin['preds_S'])),
        normalize(other.embed_T(twin['preds_T'])),
        other.memory_S.rows,
        other.memory_T.rows,
        index,
        other.log_z,
        TAU,
    )
    assert_close(value, expected, **EXACT)
    expected.backward()
    wanted = [twin['preds_S'].grad, *(p.grad for p in other.parameters())]
    assert_close(found, wanted, **EXACT)
    assert all(gradient.abs().sum() > 0.1 for gradient in found)


def test_empty_batch(way):
    loss = build()
    loss(**batch())
    before = state(loss)
    value = loss(**batch(count=0))
    value.backward()
    assert value == 0
    assert not changed(loss, before)
    assert all(not p.grad.any() for p in loss.parameters())


def test_constants_of_this_batch_without_a_graph(way):
    loss, inputs = build(), batch()
    units = normalize(loss.embed_S(inputs['preds_S']))
    index = torch.tensor([[i, *range(NEGATIVES)] for i in range(4)])
    found = crd_log_z(units, loss.memory_T.rows, index, TAU)
    assert not found.requires_grad
    products = units @ loss.memory_T.rows.t() / TAU
    expected = SIZE * products.gather(1, index).exp().mean()
    assert_close(found, expected.log().detach(), **EXACT)


@pytest.mark.parametrize('tau', [1e-4, 1e4])
def test_finite_at_any_temperature(tau):
    units = torch.eye(4)[:2].requires_grad_()
    memory = torch.cat([torch.eye(4), -torch.eye(4)])
    # Against the own row, and all for the negatives; then the other way.
    for index in (
        torch.tensor([[4, 0, 0], [5, 1, 1]]),
        torch.tensor([[0, 4, 4], [1, 5, 5]]),
    ):
        for log_z in (-1e4, 0.0, 1e4):
            value = crd_loss(
                units,
                units,
                memory,
                memory,
                index,
                torch.tensor([log_z, log_z]),
                tau,
            )
            (gradient,) = torch.autograd.grad(value, units)
            assert value.isfinite() and gradient.isfinite().all()


def test_constants_stay():
    loss = build()
    loss(**batch(0))
    first = loss.log_z.clone()
    assert first.isfinite().all()
    loss(**batch(1))
    assert torch.equal(loss.log_z, first)


@pytest.mark.parametrize('how', ['eval', 'no_grad'])
@pytest.mark.parametrize('steps', [0, 2])
def test_nothing_changes_outside_of_training(how, steps):
    """Neither the next step of the training."""
    loss = build()
    for step in range(steps):
        loss(**batch(step))
    before = state(loss)
    twin = copy.deepcopy(loss)
    loss.train(how != 'eval')
    with torch.set_grad_enabled(how != 'no_grad'):
        values = [loss(**batch(7)) for _ in range(2)]
    assert values[0] == values[1]
    assert not changed(loss, before)
    loss.train()
    value = loss(**batch(8))
    assert value == twin(**batch(8))
    assert changed(loss, before) >= {'memory_S.rows', 'memory_T.rows'}
    # The looks outside used the negatives of a step that came later.
    assert values[0] != value


def test_a_step_that_is_not_finite_leaves_nothing_behind():
    loss = build()
    before = state(loss)
    inputs = batch()
    inputs['preds_S'][1, 1] = math.nan
    assert loss(**inputs).isnan()
    assert loss.log_z.isnan().any()
    assert loss.memory_S.rows.isfinite().all()
    row = inputs['sample_idx'][1]
    assert torch.equal(loss.memory_S.rows[row], before['memory_S.rows'][row])
    assert loss(**batch(1)).isfinite()
    assert loss.log_z.isfinite().all()


def test_step_and_seed_of_the_run(hub):
    """In a training they are the runner's, whatever was called before."""
    loss = build()
    loss(**batch())
    hub.update_info('seed', 11)
    hub.update_info('iter', 40)
    hub.update_info('loop_stage', 'train')
    plain = PlainCRD(loss, seed=11)
    plain.log_z = loss.log_z.tolist()
    assert loss(**batch(1)).item() == pytest.approx(
        plain.step(40, **batch(1)), rel=1e-10
    )
    # As many steps later as the runner says.
    hub.update_info('iter', 43)
    assert loss(**batch(2)).item() == pytest.approx(
        plain.step(43, **batch(2)), rel=1e-10
    )
    # A run that is over leaves its count behind: calls are counted again.
    hub.pop_info('loop_stage')
    assert loss(**batch(3)).item() == pytest.approx(
        plain.step(3, **batch(3)), rel=1e-10
    )


def test_checkpoint():
    loss = build()
    loss(**batch(0))
    assert set(loss.state_dict()) == {
        'embed_S.weight',
        'embed_S.bias',
        'embed_T.weight',
        'embed_T.bias',
        'memory_S.rows',
        'memory_T.rows',
        'log_z',
    }
    # It has constants of its own already.
    other = build(seed=1)
    other(**batch(3))
    other.load_state_dict(loss.state_dict())
    assert other(**batch(1)) == loss(**batch(1))
    assert not changed(other, loss.state_dict())


def test_loading_what_has_no_constants_yet():
    fresh, loss = build(seed=1), build()
    for step in range(2):
        loss(**batch(step))
    loss.load_state_dict(fresh.state_dict())
    loss._calls = 0
    assert loss(**batch(1)) == fresh(**batch(1))
    assert torch.equal(loss.log_z, fresh.log_z)


def test_copies_go_on_alike():
    loss = build()
    loss(**batch(0)).backward()
    copies = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))]
    values = [one(**batch(1)) for one in (loss, *copies)]
    assert values[0] == values[1] == values[2]
    for one in copies:
        assert not changed(one, loss.state_dict())


def test_in_a_plain_module():
    """Trained by the optimizer of a module that knows nothing of it."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 3)
            self.loss = build(dtype=torch.float32)

        def forward(self, x, preds_T, sample_idx):
            return self.loss(
                preds_S=self.net(x), preds_T=preds_T, sample_idx=sample_idx
            )

    model = Both()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs = batch(0, SIZE, torch.float32)
    arguments = inputs['preds_S'], inputs['preds_T'], inputs['sample_idx']
    before = state(model)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = model(*arguments)
        value.backward()
        optimizer.step()
        values.append(value.item())
    moved = changed(model, before)
    assert moved == set(before)
    assert sum(values[-10:]) < 0.7 * sum(values[:10])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_mixed_precision(dtype):
    """Half precision features: the embedding and the memory are float32."""
    losses = [build(dtype=torch.float32) for _ in range(2)]
    inputs = batch(0, dtype=dtype)
    with torch.autocast('cpu', torch.bfloat16):
        value = losses[0](**inputs)
    expected = losses[1](
        inputs['preds_S'].float(),
        inputs['preds_T'].float(),
        inputs['sample_idx'],
    )
    assert value == expected
    assert torch.equal(losses[0].memory_S.rows, losses[1].memory_S.rows)


def test_missing_labels():
    loss = build(labels=False)
    before = state(loss)
    with pytest.raises(ValueError, match=r'got none: .*DatasetLabelsHook'):
        loss(**batch())
    assert not changed(loss, before)
    build(labels=False, negatives='all_samples')(**batch())


@pytest.mark.parametrize('negatives', ['other_classes', 'all_samples'])
def test_labels_that_do_not_fit(negatives):
    loss = build(labels=False, negatives=negatives)
    for labels, message in (
        (DATASET_LABELS[:-1], 'num_samples must be 8, the size .* got 9'),
        (torch.zeros(SIZE, 2), r'got torch.float32 of shape \(9, 2\)'),
        (torch.zeros(SIZE), r'class indices, .* got torch.float32'),
    ):
        with pytest.raises(ValueError, match=message):
            loss.set_dataset_labels(labels)


def test_labels_of_one_class():
    labels, loss = [4] * SIZE, build(labels=False)
    with pytest.raises(ValueError, match=r"got 9 .* all 4: .*'all_samples'"):
        loss.set_dataset_labels(labels)
    with pytest.raises(ValueError, match='got none'):
        loss(**batch())
    build(labels=False, negatives='all_samples').set_dataset_labels(labels)


def test_labels_of_the_batch():
    """They tell whether the indices are of the labeled data set."""
    loss, inputs = build(), batch()
    labels = torch.tensor(DATASET_LABELS)[inputs['sample_idx']]
    value = copy.deepcopy(loss)(**inputs)
    assert loss(**inputs, gt_labels=labels) == value
    labels[2] = 5
    sample = inputs['sample_idx'][2].item()
    with pytest.raises(ValueError, match=f'5 for sample {sample}, which has'):
        loss(**inputs, gt_labels=labels)


def test_compiled():
    """What cannot be compiled is left out by itself."""
    model = nn.Sequential(nn.Linear(3, 3)).double()
    losses = build(), build()

    def step(inputs, loss):
        return loss(
            model(inputs['preds_S']), inputs['preds_T'], inputs['sample_idx']
        )

    compiled = torch.compile(step, backend='eager')
    for i in range(3):
        assert_close(compiled(batch(i), losses[0]), step(batch(i), losses[1]))
    assert_close(losses[0].state_dict(), losses[1].state_dict())
