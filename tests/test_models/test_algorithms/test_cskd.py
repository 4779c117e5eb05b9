"""CS-KD: an image is answered as another one of its class."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from toy_self import LOGITS, build, config, samples
from toys import architecture

from mmkd_plugin.models import CSKD, kl_divergence
from mmkd_plugin.structures import BatchSamples

LABELS = torch.tensor([1, 1, 0, 0, 3, 3])


@pytest.fixture
def images(seed):
    return torch.randn(6, 3, 8, 8)


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)


def gradients(model):
    return [p.grad for p in model.parameters()]


def test_registered():
    assert MODELS.get('CSKD') is CSKD


def test_two_passes(images):
    """Of the halves, each with batch statistics of its own."""
    model = build('CSKD', loss=dict(tau=3.0, loss_weight=0.5))
    other = copy.deepcopy(model.student)
    losses = model.loss(images, samples(range(6), LABELS))
    firsts = other(images[[0, 2, 4]])
    with torch.no_grad():
        seconds = other(images[[1, 3, 5]])
    own = cross_entropy(firsts, LABELS[[0, 2, 4]])
    self_taught = 0.5 * kl_divergence(firsts, seconds, 3.0)
    assert set(losses) == {'student.loss', 'distill.loss_self'}
    assert_close(losses['student.loss'], own)
    assert_close(losses['distill.loss_self'], self_taught)
    assert self_taught > 1e-3
    total(losses).backward()
    (own + self_taught).backward()
    assert_close(gradients(model.student), gradients(other))
    # Both passes move the running statistics, in this order.
    assert_close(model.student.state_dict(), other.state_dict())
    assert model.student.backbone.bn1.num_batches_tracked == 2


@MODELS.register_module()
class LookLoss(torch.nn.Module):
    """Keeps what it was given."""

    def forward(self, preds_S, preds_T, index, label):
        self.given = dict(preds_T=preds_T, index=index, label=label)
        return preds_S.sum()


def looking():
    """Build CS-KD with a loss that looks, beside its own."""
    made = config('CSKD')
    distiller = made['distiller']
    distiller['distill_losses']['loss_look'] = dict(type='LookLoss')
    mappings = distiller['loss_forward_mappings']
    mappings['loss_look'] = dict(
        **mappings['loss_self'],
        index=dict(from_batch='sample_idx'),
        label=dict(from_batch='gt_label'),
    )
    return build('CSKD', distiller=distiller)


def listed(index, labels):
    return [
        DataSample(metainfo=dict(sample_idx=i)).set_gt_label(label)
        for i, label in zip(index, labels.tolist(), strict=True)
    ]


@pytest.mark.parametrize('given', [samples, listed])
def test_mappings_read_the_first_images(images, given):
    """Of a batch of tensors, or of mmpretrain's list of samples."""
    model = looking()
    losses = model.loss(images, given([7, 4, 9, 8, 2, 5], LABELS))
    seen = model.distiller.distill_losses['loss_look'].given
    assert seen['index'].tolist() == [7, 9, 2]
    assert seen['label'].tolist() == [1, 0, 3]
    # No graph is kept of the second pass.
    assert not seen['preds_T'].requires_grad
    expected = build('CSKD').loss(images, samples(range(6), LABELS))
    for name in ('student.loss', 'distill.loss_self'):
        assert_close(losses[name], expected[name], rtol=0, atol=0)


def test_single_samples_are_not_made(images, monkeypatch):
    def never(self):
        raise AssertionError

    monkeypatch.setattr(BatchSamples, '_materialise', never)
    model = build('CSKD', calculate_student_loss=False)
    assert model.loss(images, samples(range(6), LABELS))


def test_without_labels(images):
    """There is nothing to check the pairs by."""
    model = build('CSKD', calculate_student_loss=False)
    other = build('CSKD', calculate_student_loss=False)
    assert_close(
        model.loss(images), other.loss(images, samples(range(6), LABELS))
    )
    with pytest.raises(ValueError, match='no labels for the loss of the stu'):
        build('CSKD').loss(images)


@pytest.mark.parametrize('channels_last', [True, False])
def test_memory_order(images, channels_last):
    model = build('CSKD', channels_last=channels_last)
    given = images.contiguous(memory_format=torch.channels_last)
    losses = model.loss(given, samples(range(6), LABELS))
    expected = build('CSKD').loss(images, samples(range(6), LABELS))
    assert_close(losses, expected)


def test_autocast_gives_all_weights_a_gradient(images):
    """It keeps copies of the weights from the first pass of a step."""
    model = build('CSKD')
    with torch.autocast('cpu', torch.bfloat16):
        losses = model.loss(images, samples(range(6), LABELS))
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    assert model.student.head.fc.weight.grad.abs().sum() > 0


def test_nothing_is_left_of_a_step(images):
    model = build('CSKD')
    model.loss(images, samples(range(6), LABELS))
    for recorder in (
        *model.distiller.student_recorders.values(),
        *model.distiller.teacher_recorders.values(),
    ):
        assert recorder.records == []
    assert model._seconds is None
    assert copy.deepcopy(model).loss(images, samples(range(6), LABELS))
    assert {k.split('.')[0] for k in model.state_dict()} == {'student'}


def test_synchronised_batch_norm_is_recorded(images):
    """It replaces modules which the recorders of both passes have hooked."""
    norm = dict(norm=dict(type='ModuleOutputs', source='backbone.bn1'))
    made = config('CSKD')['distiller']
    made.update(
        student_recorders={**LOGITS, **norm},
        teacher_recorders={**LOGITS, **norm},
    )
    made['distill_losses']['loss_norm'] = dict(type='MSELoss')
    made['loss_forward_mappings']['loss_norm'] = dict(
        preds_S=dict(from_student=True, recorder='norm'),
        preds_T=dict(from_student=False, recorder='norm'),
    )
    model = build('CSKD', distiller=made)
    before = model.student.backbone.bn1
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert model.student.backbone.bn1 is not before
    # Which needs a GPU in training mode.
    model.eval()
    losses = model.loss(images, samples(range(6), LABELS))
    assert losses['distill.loss_norm'] > 0


# --------------------------------------------------------------- errors


def test_no_recorders_of_the_second_images():
    distiller = config('TFKD')['distiller']
    with pytest.raises(ValueError, match='CSKD needs teacher_recorders'):
        build('CSKD', distiller=distiller, calculate_student_loss=False)


def test_recorders_of_a_teacher_in_self_distillation():
    with pytest.raises(
        ValueError,
        match=r"SelfDistill has no teacher, .* teacher_recorders \['logits'\]",
    ):
        MODELS.build(
            dict(
                type='SelfDistill',
                student=architecture(),
                distiller=config('CSKD')['distiller'],
            )
        )


def test_batches_that_are_no_pairs(images):
    model = build('CSKD')
    with pytest.raises(ValueError, match='even size, but got 5 images'):
        model.loss(images[:5], samples(range(5), LABELS[:5]))
    wrong = LABELS.clone()
    wrong[3] = 4
    for _ in range(2):
        with pytest.raises(
            ValueError, match='got 0 and 4 in the first of 1 wrong pairs of 3'
        ):
            model.loss(images, samples(range(6), wrong))
