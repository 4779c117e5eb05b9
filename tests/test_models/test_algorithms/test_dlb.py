"""DLB: what the student said one step ago is what it learns from."""

import copy
import pickle

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.structures import DataSample
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from toy_self import build, config, samples, train_step

from mmkd_plugin.datasets import LastBatchSampler
from mmkd_plugin.models import DLB, LastBatchStore, kl_divergence


def images(*shape, key=0):
    generator = torch.Generator().manual_seed(key)
    return torch.randn(*shape, 3, 8, 8, generator=generator)


def step(model, index, key=0):
    return train_step(model, images(len(index), key=key), samples(index))


def test_registered():
    assert MODELS.get('DLB') is DLB
    assert isinstance(build('DLB').store, LastBatchStore)


def test_two_epochs():
    """Of batches of 4, the last of which has 2 new images."""
    model = build('DLB', loss=dict(tau=2.0, loss_weight=0.5))
    past, lengths = {}, []
    for epoch in (0, 1):
        order = range(10) if epoch == 0 else range(9, -1, -1)
        for again, index in zip(
            (0, 4, 4), LastBatchSampler(order, 4), strict=True
        ):
            lengths.append(len(index))
            key = len(lengths)
            said = copy.deepcopy(model.student)(images(len(index), key=key))
            log = step(model, index, key)
            labels = samples(index).gt_label
            assert log['student.loss'] == pytest.approx(
                cross_entropy(said, labels).item(), rel=1e-5
            )
            expected = 0.0
            if again:
                then = torch.stack([past[i] for i in index[:4]])
                expected = 0.5 * kl_divergence(said[:4], then, 2.0).item()
                assert expected > 1e-3
            assert log['distill.loss_self'] == pytest.approx(
                expected, rel=1e-4
            )
            new = index[again:]
            past = dict(zip(new, said.detach()[again:], strict=True))
            # Of the new images alone.
            assert model.store.own_idx.tolist() == new
            kept = model.store.read(torch.tensor(new))
            assert_close(kept, torch.stack(list(past.values())))
    assert lengths == [4, 8, 6] * 2


def test_nothing_is_kept_without_gradients():
    """Nor has the sampler to be that of the training."""
    model = build('DLB')
    step(model, [0, 1, 2, 3])
    for index in ([7, 8, 9, 6], [3, 7, 1, 0], [5, 6, 7, 8]):
        with torch.no_grad():
            log = model(images(4), samples(index), mode='loss')
        assert log['distill.loss_self'] == 0
    assert step(model, [0, 1, 2, 3, 4, 5])['distill.loss_self'] > 1e-4
    assert model.store.own_idx.tolist() == [4, 5]


def test_the_gradient_of_the_first_batch_is_that_of_its_labels():
    model = build('DLB')
    other = copy.deepcopy(model.student)
    data = dict(inputs=images(4), data_samples=samples(range(4)))
    losses = model.loss(**data)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    cross_entropy(other(images(4)), samples(range(4)).gt_label).backward()
    for one, two in zip(
        model.student.parameters(), other.parameters(), strict=True
    ):
        assert_close(one.grad, two.grad)


def test_samples_in_a_list():
    model = build('DLB')

    def listed(index):
        return [
            DataSample(metainfo=dict(sample_idx=i)).set_gt_label(0)
            for i in index
        ]

    model.loss(images(4), listed([5, 3, 2, 9]))
    losses = model.loss(images(6), listed([5, 3, 2, 9, 1, 0]))
    assert losses['distill.loss_self'] > 0


def test_bfloat16():
    model = build('DLB')
    with torch.autocast('cpu', torch.bfloat16):
        model.loss(images(4), samples([0, 1, 2, 3]))
        losses = model.loss(images(8), samples(range(8)))
    assert model.store.logits.dtype == torch.float32
    losses['distill.loss_self'].backward()
    assert model.student.head.fc.weight.grad.abs().sum() > 0


def test_state():
    model = build('DLB')
    step(model, [0, 1, 2, 3])
    assert {k for k in model.state_dict() if k[:8] != 'student.'} == {
        'store.logits',
        'store.sample_idx',
    }
    average = ExponentialMovingAverage(model, 0.5)
    average.update_parameters(model)
    copied = pickle.loads(pickle.dumps(model))
    for other in (copy.deepcopy(model), copied, average.module):
        losses = other.loss(images(8), samples(range(8)))
        assert losses['distill.loss_self'] > 0
        assert other.store.own_idx.tolist() == [4, 5, 6, 7]
        assert model.store.own_idx.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize('load', [DLB.load_state_dict, load_state_dict])
def test_checkpoint_of_other_batches(load):
    """As of a run on more ranks: the first step has no past."""
    model = build('DLB')
    step(model, [0, 1, 2, 3])
    state = model.state_dict()
    state['store.logits'] = torch.ones(8, 5)
    state['store.sample_idx'] = torch.arange(8)
    other = build('DLB')
    load(other, state)
    # In the middle of an epoch.
    assert step(other, [0, 1, 2, 3, 6, 7, 8, 9])['distill.loss_self'] == 0
    assert other.store.own_idx.tolist() == [6, 7, 8, 9]
    assert step(other, [6, 7, 8, 9, 4])['distill.loss_self'] > 0


# --------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(batch_size=0), 'batch_size must be .* got 0'),
        (dict(num_classes=4), 'num_classes must be 5, .* but got 4'),
        (dict(logits='fc'), "student recorder 'fc', but there is none"),
        (
            dict(
                distiller=config('TFKD')['distiller'],
                calculate_student_loss=False,
            ),
            r"DLB gives past_logits, .*dict\(from_batch='past_logits'\)",
        ),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        build('DLB', **changes)


@pytest.mark.parametrize('size', [4, 8])
def test_another_sampler(size):
    """An epoch begins without a past, but no two batches in a row do."""
    model = build('DLB')
    batches = torch.arange(12 * size).view(-1, size).tolist()
    step(model, batches[0])
    step(model, batches[1])
    with pytest.raises(ValueError, match=r"type='LastBatchSampler'\)"):
        step(model, batches[2])


def test_epochs_of_two_batches():
    model = build('DLB')
    for _ in range(4):
        assert step(model, [0, 1, 2, 3])['distill.loss_self'] == 0
        assert step(model, [0, 1, 2, 3, 4])['distill.loss_self'] > 0


def test_another_batch_size():
    model = build('DLB')
    match = 'the batch has 10 images, 0 of them again, but at most batch_si'
    with pytest.raises(ValueError, match=match):
        step(model, range(10))
    step(model, range(4))
    match = 'the batch has 9 images, 4 of them again, but at most batch_siz'
    with pytest.raises(ValueError, match=match):
        step(model, range(9))


def test_no_indices():
    unnamed = [DataSample().set_gt_label(i) for i in range(4)]
    for given in (unnamed, None):
        with pytest.raises(ValueError, match='DLB needs the sample_idx'):
            build('DLB').loss(images(4), given)
