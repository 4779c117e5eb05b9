"""Deep mutual learning, against loops over students and images."""

import math

import pytest
import torch
from toy_students import batch, labels_of, online


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def loops(logits, labels):
    """The paper's loss of each student, in plain Python."""
    found = {}
    for i, own in logits.items():
        entropy = divergence = 0.0
        for n, label in enumerate(labels.tolist()):
            p_i = softmax(own[n].tolist())
            entropy -= math.log(p_i[label]) / len(labels)
            for j, other in logits.items():
                if j == i:
                    continue
                p_j = softmax(other[n].tolist())
                divergence += sum(
                    a * (math.log(a) - math.log(b))
                    for a, b in zip(p_j, p_i, strict=True)
                ) / (len(labels) * (len(logits) - 1))
        found[f'{i}.loss'] = entropy
        found[f'{i}.distill.loss_peer'] = divergence
    return found


def double(data):
    data['inputs'] = data['inputs'].double()
    return data


@pytest.mark.parametrize('widths', [(2, 3), (2, 3, 4)])
def test_values_against_loops(widths):
    model = online(widths=widths).double().eval()
    data = double(batch())
    losses = model(**data, mode='loss')
    logits = {
        name: student(data['inputs'], mode='tensor').detach()
        for name, student in model.students.items()
    }
    expected = loops(logits, labels_of(data))
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9), name
    # Nobody agrees with nobody.
    assert min(expected.values()) > 1e-3


def test_gradient_is_that_of_the_students_own_loss_alone():
    model = online(widths=(2, 3, 4)).double().eval()
    data = double(batch())
    losses = model(**data, mode='loss')
    sum(losses.values()).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters()}
    labels = labels_of(data)
    for name, student in model.students.items():
        model.zero_grad()
        with torch.no_grad():
            targets = {
                other: peer(data['inputs'], mode='tensor').softmax(1)
                for other, peer in model.students.items()
                if other != name
            }
        log_p = student(data['inputs'], mode='tensor').log_softmax(1)
        loss = -log_p[range(6), labels].mean()
        for target in targets.values():
            loss = loss - (target * log_p).sum(1).mean() / 2
        loss.backward()
        for key, parameter in student.named_parameters():
            gap = (found[f'students.{name}.{key}'] - parameter.grad).abs()
            assert gap.max() < 1e-12, key
            assert parameter.grad.abs().max() > 0, key


def test_no_gradient_crosses_over():
    model = online()
    losses = model(**batch(), mode='loss')
    (losses['a.loss'] + losses['a.distill.loss_peer']).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == key.startswith('students.b.'), key


def test_students_that_agree_have_nothing_to_learn_from_each_other():
    model = online(widths=(3, 3)).eval()
    model.students.b.load_state_dict(model.students.a.state_dict())
    losses = model(**batch(), mode='loss')
    assert losses['a.distill.loss_peer'].abs() < 1e-6
    assert losses['a.loss'] == losses['b.loss'] > 0


def test_another_loss_between_peers():
    model = online(peer_loss=dict(type='KLDivergence', tau=3.0))
    plain = online()
    model.eval(), plain.eval()
    found = model(**batch(), mode='loss')['a.distill.loss_peer']
    assert plain.peer_loss.tau == 1.0
    data = batch()['inputs']
    a, b = (s(data, mode='tensor') for s in model.students.values())
    p = (b / 3).softmax(1)
    expected = 9 * (p * (p.log() - (a / 3).log_softmax(1))).sum(1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_views_reach_the_divergence():
    model, data = online().eval(), batch(views=2)
    found = model(**data, mode='loss')['a.distill.loss_peer']
    a, b = (
        student(view, mode='tensor').log_softmax(1)
        for student, view in zip(
            model.students.values(), data['inputs'], strict=True
        )
    )
    expected = (b.exp() * (b - a)).sum(1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
