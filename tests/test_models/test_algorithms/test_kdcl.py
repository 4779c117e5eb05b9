"""KDCL, against loops and known answers."""

import pytest
import torch
from mmengine.logging import MessageHub
from torch.nn.functional import cross_entropy
from toy_students import batch, labels_of, online

from mmkd_plugin.models.algorithms.best_mixture import best_mixture
from mmkd_plugin.models.algorithms.kdcl import (
    best_student,
    inverse_covariance_weights,
    min_logit_target,
)

TARGETS = ('naive', 'linear', 'min_logit', 'general')


def answers(model, data):
    return torch.stack(
        [
            student(data['inputs'], mode='tensor').detach()
            for student in model.students.values()
        ]
    )


def target_by_loops(kind, logits, labels):
    count, num, classes = logits.shape
    rows = range(num)
    if kind == 'naive':
        losses = [cross_entropy(z, labels).item() for z in logits]
        return logits[losses.index(min(losses))]
    if kind == 'linear':
        weights = best_mixture(logits, labels)
    if kind == 'general':
        weights = [1 / count] * count
    found = torch.zeros(num, classes, dtype=logits.dtype)
    for n in rows:
        for c in range(classes):
            values = [
                z[n, c] - (z[n, labels[n]] if kind == 'min_logit' else 0)
                for z in logits
            ]
            found[n, c] = (
                min(values)
                if kind == 'min_logit'
                else sum(w * v for w, v in zip(weights, values, strict=True))
            )
    return found


@pytest.mark.parametrize('views', [1, 3])
@pytest.mark.parametrize('target', TARGETS)
def test_values_against_loops(target, views):
    model = online('KDCL', widths=(2, 3, 4), target=target).double().eval()
    data = batch(views=views)
    images = data['inputs'] if views > 1 else [data['inputs']] * 3
    images = [image.double() for image in images]
    data['inputs'] = images if views > 1 else images[0]
    losses = model(**data, mode='loss')
    logits = torch.stack(
        [
            student(image, mode='tensor').detach()
            for student, image in zip(
                model.students.values(), images, strict=True
            )
        ]
    )
    labels = labels_of(data)
    wanted = (target_by_loops(target, logits, labels) / 2).softmax(1)
    for name, own in zip(model.students, logits, strict=True):
        log_p = (own / 2).log_softmax(1)
        divergence = 4 * (wanted * (wanted.log() - log_p)).sum(1).mean()
        found = losses[f'{name}.distill.loss_peer'].item()
        # The weights of 'general' are float32.
        assert found == pytest.approx(divergence.item(), abs=1e-7)
        assert losses[f'{name}.loss'].item() == pytest.approx(
            cross_entropy(own, labels).item(), rel=1e-9
        )
    weights = {k for k in losses if k.startswith('distill.weight.')}
    assert len(weights) == (0 if target == 'min_logit' else 3)
    total, _ = model.parse_losses(losses)
    assert total == sum(v for k, v in losses.items() if 'loss' in k)


@pytest.mark.parametrize('target', TARGETS)
def test_no_gradient_reaches_the_target(target):
    model = online('KDCL', target=target)
    losses = model(**batch(), mode='loss')
    losses['a.distill.loss_peer'].backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == key.startswith('students.b.'), key
    grads = [p.grad for p in model.students.a.parameters()]
    if target != 'naive':
        assert all(g.abs().max() > 0 for g in grads)


def test_best_student():
    eye = 3 * torch.eye(4)
    labels = torch.arange(4)
    for place in range(3):
        logits = torch.stack([-eye, 0 * eye, -eye])
        logits[place] = eye
        chosen = best_student(logits, labels)
        assert chosen.tolist() == [float(k == place) for k in range(3)]
    # The first one of equals.
    assert best_student(torch.stack([eye, eye]), labels).tolist() == [1, 0]
    # Over the batch: the first one is best for most images.
    logits = torch.stack([eye, 0 * eye])
    logits[0, 3] = torch.tensor([9.0, 0, 0, -9.0])
    assert best_student(logits, labels).tolist() == [0, 1]


def test_weights_in_the_log_are_those_of_the_target():
    data = batch()
    labels = labels_of(data)
    model = online('KDCL', target='naive').eval()
    losses = model(**data, mode='loss')
    found = [losses[f'distill.weight.{name}'].item() for name in 'ab']
    entropies = [losses[f'{name}.loss'].item() for name in 'ab']
    assert found == [float(e == min(entropies)) for e in entropies]
    # Who is the target has nothing to learn from itself.
    best = 'ab'[entropies.index(min(entropies))]
    assert losses[f'{best}.distill.loss_peer'].abs() < 1e-6
    model = online('KDCL', target='linear').eval()
    losses = model(**data, mode='loss')
    found = [losses[f'distill.weight.{name}'].item() for name in 'ab']
    expected = best_mixture(answers(model, data), labels).tolist()
    assert found == pytest.approx(expected, abs=1e-6)


def test_linear_target_answers_at_least_as_well_as_each_student():
    model, data = online('KDCL', target='linear').eval(), batch(num=30)
    logits, labels = answers(model, data), labels_of(data)
    weights = best_mixture(logits, labels).float()
    mixed = cross_entropy(torch.tensordot(weights, logits, 1), labels)
    assert mixed <= min(cross_entropy(z, labels) for z in logits) + 1e-6


def test_min_logit_by_hand():
    logits = torch.tensor(
        [
            [[1.0, 5.0, 2.0], [0.0, 0.0, 4.0]],
            [[4.0, 3.0, 3.0], [1.0, 2.0, 3.0]],
        ]
    )
    found = min_logit_target(logits, torch.tensor([0, 2]))
    assert found.tolist() == [[0.0, -1.0, -1.0], [-4.0, -4.0, 0.0]]


def test_weights_of_known_errors():
    # Independent errors: as the inverse of their squares.
    found = inverse_covariance_weights(torch.tensor([1.0, 4.0]).diag())
    assert found.tolist() == pytest.approx([0.8, 0.2], abs=0.01)
    # Lagrange: C w is the same for all, but for what is added to C.
    root = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    covariance = (root @ root.T / 9).double()
    weights = inverse_covariance_weights(covariance)
    assert weights.sum().item() == pytest.approx(1.0)
    ridge = 1e-2 * covariance.diagonal().mean() * torch.eye(4)
    gradient = (covariance + ridge) @ weights
    assert torch.allclose(gradient, gradient.mean().expand(4), rtol=1e-6)
    # Negative where a student errs as another one, but more.
    found = inverse_covariance_weights(torch.tensor([[1.0, 2.0], [2.0, 5.0]]))
    assert found.tolist() == pytest.approx([1.5, -0.5], abs=0.05)


def test_weights_of_nearly_singular_errors():
    ones = torch.ones(3, 3)
    assert inverse_covariance_weights(ones).tolist() == pytest.approx(
        [1 / 3] * 3
    )
    # Rounding does not decide.
    noisy = ones + 1e-9 * torch.randn(3, 3)
    noisy = (noisy + noisy.T) / 2
    assert inverse_covariance_weights(noisy).tolist() == pytest.approx(
        [1 / 3] * 3, abs=1e-4
    )
    # Errors that are each other's multiples: 51 and -50 by the formula.
    double = torch.tensor([[1.0, 1.02], [1.02, 1.02**2]])
    weights = inverse_covariance_weights(double.double())
    assert weights.abs().max() < 4
    assert weights[0] > 1 > 0 > weights[1]
    # Nobody errs.
    assert inverse_covariance_weights(0 * ones).tolist() == [1 / 3] * 3
    for bad in (ones[:2], ones * torch.nan):
        with pytest.raises(ValueError, match='square matrix of finite'):
            inverse_covariance_weights(bad)


def test_general_weights_are_a_buffer():
    model = online('KDCL', target='general', widths=(2, 3, 4))
    state = model.state_dict()
    assert state['general_weights'].tolist() == pytest.approx([1 / 3] * 3)
    for target in ('naive', 'linear', 'min_logit'):
        assert (
            'general_weights' not in online('KDCL', target=target).state_dict()
        )
    model.set_error_covariance(torch.tensor([1.0, 2.0, 4.0]).diag())
    expected = [4 / 7, 2 / 7, 1 / 7]
    assert model.general_weights.tolist() == pytest.approx(expected, abs=0.01)
    assert model.general_weights.dtype == torch.float32
    data = batch()
    losses = model.eval()(**data, mode='loss')
    for name, weight in zip('abc', expected, strict=True):
        found = losses[f'distill.weight.{name}'].item()
        assert found == pytest.approx(weight, abs=0.01)
    logits = answers(model, data)
    target = torch.tensordot(model.general_weights, logits, 1)
    p, log_p = (target / 2).softmax(1), (logits[0] / 2).log_softmax(1)
    divergence = 4 * (p * (p.log() - log_p)).sum(1).mean()
    assert losses['a.distill.loss_peer'].item() == pytest.approx(
        divergence.item(), rel=1e-4
    )
    with pytest.raises(ValueError, match=r'that of 2 students, but .* 3'):
        model.set_error_covariance(torch.eye(2))
    with pytest.raises(ValueError, match="but the target is 'min_logit'"):
        online('KDCL').set_error_covariance(torch.eye(2))


@pytest.fixture
def hub(monkeypatch):
    """A runner's, in its training."""
    run = MessageHub('kdcl test')
    monkeypatch.setattr(
        MessageHub, 'get_current_instance', classmethod(lambda _: run)
    )
    run.update_info('loop_stage', 'train')


def test_general_without_measurements_does_not_run(hub):
    model = online('KDCL', target='general')
    for check in (model.check_hooks, lambda: model(**batch(), mode='loss')):
        with pytest.raises(ValueError, match="type='ErrorCovarianceHook'"):
            check()
    model.expect_measurements()
    model.check_hooks()
    assert model(**batch(), mode='loss')['distill.weight.a'] == 0.5
    # The others need none.
    online('KDCL').check_hooks()
    online('KDCL', target='linear')(**batch(), mode='loss')


def test_general_needs_no_labels_for_its_target():
    assert not online('KDCL', target='general').needs_labels
    assert online('KDCL').needs_labels


def test_unknown_target():
    with pytest.raises(ValueError, match=r"target must be .* but got 'mean'"):
        online('KDCL', target='mean')


@pytest.mark.parametrize('target', TARGETS)
def test_half_precision(target):
    model = online('KDCL', target=target).eval()
    data = batch()
    expected = model(**data, mode='loss')
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**data, mode='loss')
    for name, value in expected.items():
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(
            value.item(), rel=0.1, abs=0.05
        ), name
    sum(v for k, v in losses.items() if 'loss' in k).backward()
