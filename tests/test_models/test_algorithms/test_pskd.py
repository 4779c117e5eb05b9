"""PS-KD: what the student said is what it learns from."""

import copy
import pickle

import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn.functional import log_softmax
from torch.testing import assert_close
from toy_self import build, config, samples, train_step

from mmkd_plugin.models import PSKD, PredictionStore

LABELS = torch.tensor([1, 0, 3, 2])


@pytest.fixture
def images(seed):
    return torch.randn(4, 3, 8, 8)


def expected_loss(logits, targets):
    return -(targets * log_softmax(logits, dim=1)).sum(1).mean()


def one_hot(labels):
    return torch.eye(5)[labels]


def test_registered():
    assert MODELS.get('PSKD') is PSKD
    assert isinstance(build('PSKD').store, PredictionStore)


def test_the_past_is_what_the_student_said(images):
    """Three steps, on images 0 to 3, on some of them, on 2 to 5."""
    model = build('PSKD', loss=dict(alpha=0.3))
    past = {}
    for index in ([0, 1, 2, 3], [3, 7, 1, 0], [2, 3, 4, 5]):
        labels = LABELS[torch.tensor(index) % 4]
        said = copy.deepcopy(model.student)(images)
        targets = 0.7 * one_hot(labels) + 0.3 * torch.stack(
            [
                past.get(i, one_hot(label))
                for i, label in zip(index, labels, strict=True)
            ]
        )
        log = train_step(model, images, samples(index, labels))
        assert set(log) == {'loss', 'distill.loss_self'}
        expected = expected_loss(said, targets).item()
        assert log['loss'] == pytest.approx(expected, rel=1e-5)
        past.update(zip(index, said.detach().softmax(1), strict=True))
    seen = model.store.seen.nonzero().flatten().tolist()
    assert seen == sorted(past)
    for i, row in past.items():
        assert_close(model.store.probs[i], row)


def test_nothing_is_kept_without_gradients(images):
    model = build('PSKD')
    train_step(model, images, samples([0, 1, 2, 3]))
    before = copy.deepcopy(model.store.state_dict())
    with torch.no_grad():
        model(images, samples([3, 4, 5, 6]), mode='loss')
    assert_close(model.store.state_dict(), before, rtol=0, atol=0)


def test_the_gradient_is_that_of_the_targets(images):
    model = build('PSKD', loss=dict(alpha=0.5))
    given = samples([3, 7, 1, 0], LABELS)
    model.loss(images, given)
    past = model.store.probs[torch.tensor([3, 7, 1, 0])].clone()
    other = copy.deepcopy(model.student)
    model.loss(images, given)['distill.loss_self'].backward()
    targets = 0.5 * one_hot(LABELS) + 0.5 * past
    expected_loss(other(images), targets).backward()
    for (name, one), two in zip(
        model.student.named_parameters(), other.parameters(), strict=True
    ):
        assert_close(one.grad, two.grad, msg=name)


def test_samples_in_a_list(images):
    """As mmpretrain's pipelines give them."""
    model, other = build('PSKD'), build('PSKD')
    listed = [
        DataSample(metainfo=dict(sample_idx=i)).set_gt_label(label)
        for i, label in zip([3, 7, 1, 0], LABELS.tolist(), strict=True)
    ]
    for _ in range(2):
        one = model.loss(images, listed)
        two = other.loss(images, samples([3, 7, 1, 0], LABELS))
        assert_close(one, two, rtol=0, atol=0)
    assert torch.equal(model.store.probs, other.store.probs)
    assert model.store.seen.sum() == 4


def test_indices_read_by_a_loss_too(images):
    """They are moved for the loss, but not for the store."""
    made = config('PSKD')
    made['distiller']['distill_losses']['loss_echo'] = dict(type='IndexLoss')
    made['distiller']['loss_forward_mappings']['loss_echo'] = dict(
        preds_S=dict(from_student=True, recorder='logits'),
        index=dict(from_batch='sample_idx'),
    )
    model = MODELS.build(made)
    losses = model.loss(images, samples([3, 7, 1, 0], LABELS))
    assert losses['distill.loss_echo'] == 7 + 2 * 1
    assert model.store.seen.sum() == 4


@MODELS.register_module()
class IndexLoss(torch.nn.Module):
    def forward(self, preds_S, index):
        return (index * torch.arange(4)).sum() + 0 * preds_S.sum()


def test_bfloat16(images):
    model = build('PSKD')
    data = dict(inputs=images, data_samples=samples([0, 1, 2, 3]))
    with torch.autocast('cpu', torch.bfloat16):
        for _ in range(2):
            losses = model.loss(**data)
    assert model.store.probs.dtype == torch.float32
    assert_close(model.store.probs[:4].sum(1), torch.ones(4))
    losses['distill.loss_self'].backward()
    assert model.student.head.fc.weight.grad.abs().sum() > 0


def test_state(images):
    model = build('PSKD')
    model.loss(images, samples([3, 7, 1, 0], LABELS))
    state = model.state_dict()
    assert {k for k in state if not k.startswith('student.')} == {
        'store.probs',
        'store.seen',
    }
    assert all(name.startswith('student.') for name, _ in _trained(model))
    copied = pickle.loads(pickle.dumps(model))
    average = ExponentialMovingAverage(model, 0.5)
    average.update_parameters(model)
    for other in (copy.deepcopy(model), copied, average.module):
        before = other.store.probs.clone()
        assert torch.equal(before, model.store.probs)
        # Each writes what its own student says, into its own store.
        other.loss(images, samples([3, 7, 1, 2], LABELS))
        assert other.store.seen.sum() == 5
        assert model.store.seen.sum() == 4


def _trained(model):
    return list(model.named_parameters())


# --------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(num_samples=0),
            'num_samples must be .* got 0',
        ),
        (
            dict(num_classes=4),
            'num_classes must be 5, those of the student, but got 4',
        ),
        (
            dict(logits='logit'),
            "student recorder 'logit', but there is none; nearest: logits",
        ),
        (
            dict(distiller=config('TFKD')['distiller']),
            r"gives past_probs, which no loss reads: .*from_batch='past_pro",
        ),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        build('PSKD', **changes)


def test_student_that_does_not_tell_its_classes():
    student = build('PSKD').student
    student.head.num_classes = None
    with pytest.raises(ValueError, match='PSKD needs num_classes'):
        build('PSKD', student=student)
    model = build('PSKD', student=student, num_classes=5)
    assert model.store.probs.shape == (12, 5)


def test_batches_that_do_not_fit(images):
    model = build('PSKD')
    with pytest.raises(
        ValueError, match=r'PSKD: .*in \[0, 12\).* got 12; num_samples is'
    ):
        model.loss(images, samples([0, 1, 2, 12]))
    unlabeled = samples([0, 1, 2, 3])
    unlabeled.gt_label = None
    # Whichever is read first.
    match = 'no labels, which stand for .*PSKD|no gt_label, which'
    with pytest.raises(ValueError, match=match):
        model.loss(images, unlabeled)
    unnamed = [DataSample().set_gt_label(i) for i in range(4)]
    for given in (unnamed, None):
        with pytest.raises(ValueError, match='PSKD needs the sample_idx'):
            model.loss(images, given)
    assert not model.store.seen.any()


class Images(BaseDataset):
    def __init__(self, count):
        self.count = count
        super().__init__(serialize_data=False)

    def load_data_list(self):
        return [{} for _ in range(self.count)]


def test_training_set_and_store():
    model = build('PSKD')
    for good in (range(12), range(11), RepeatDataset(Images(12), 3)):
        model.check_data(good, {})
    match = 'num_samples must be at least 13, .* but got 12'
    for bad in (range(13), RepeatDataset(Images(13), 1)):
        with pytest.raises(ValueError, match=match):
            model.check_data(bad, {})
    with pytest.raises(ValueError, match='ConcatDataset counts anew'):
        model.check_data(ConcatDataset([Images(2), Images(2)]), {})
