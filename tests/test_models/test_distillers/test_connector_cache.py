"""A connector runs once a step for what it is given once."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.testing import assert_close

from mmkd_plugin.models import ConfigurableDistiller
from mmkd_plugin.utils.checks import check_map


@MODELS.register_module()
class CountingConnector(nn.Module):
    """Returns two values, and counts how often."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, feature, other=0.0):
        self.calls += 1
        return self.scale * feature + other, feature + self.calls


@MODELS.register_module()
class FirstLoss(nn.Module):
    """Sums what it is given."""

    def forward(self, preds_S):
        return preds_S.sum()


class Doubled(nn.Module):
    """Its layer is called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x))


def source(idx=0, recorder='out', from_student=True, **more):
    return dict(
        from_student=from_student,
        recorder=recorder,
        connector='count',
        connector_idx=idx,
        **more,
    )


def distiller(*sources):
    """Build one with a loss for each of the sources."""
    recorders = dict(out=dict(type='ModuleOutputs', source='layer'))
    student = dict(recorders, inp=dict(type='ModuleInputs', source='layer'))
    text = str(sources)
    names = [f'loss_{i}' for i in range(len(sources))]
    return ConfigurableDistiller(
        student_recorders={
            k: v for k, v in student.items() if repr(k) in text
        },
        teacher_recorders=recorders if 'False' in text else None,
        connectors=dict(count=dict(type='CountingConnector')),
        distill_losses={name: dict(type='FirstLoss') for name in names},
        loss_forward_mappings={
            name: dict(preds_S=given)
            for name, given in zip(names, sources, strict=True)
        },
    )


def run(made, x=None):
    """Make a step; the teacher is another network."""
    torch.manual_seed(3)
    student, teacher = Doubled(), Doubled()
    x = torch.ones(2, 3) if x is None else x
    made.prepare_from_student(student)
    made.prepare_from_teacher(teacher)
    with made.record_teacher():
        teacher(x)
    with made.record_student():
        student(x)
    losses = made.compute_distill_losses()
    return losses, student


def calls(made):
    return made.connectors['count'].calls


def inputs(**more):
    return dict(
        connector_inputs=dict(
            other=dict(from_student=True, recorder='out', **more)
        )
    )


@pytest.mark.parametrize(
    ('sources', 'expected'),
    [
        ([source(0), source(1)], 1),
        ([source(0), source(0), source(1)], 1),
        # Another call of the layer.
        ([source(0), source(0, record_idx=1)], 2),
        # Another side.
        ([source(0), source(0, from_student=False)], 2),
        # Another recorder, another element.
        ([source(0), source(0, recorder='inp', data_idx=0)], 2),
        (
            [
                source(0, recorder='inp', data_idx=0),
                source(0, recorder='inp', data_idx=-1),
            ],
            2,
        ),
        # Further inputs: equal, there or not, of another call.
        (
            [
                source(0, **inputs(record_idx=1)),
                source(1, **inputs(record_idx=1)),
            ],
            1,
        ),
        ([source(0), source(0, **inputs())], 2),
        (
            [source(0, **inputs()), source(0, **inputs(record_idx=1))],
            2,
        ),
        # Another output of a connector that an input passes: it runs once,
        # then once for each of its two outputs.
        (
            [
                source(0, **inputs(connector='count', connector_idx=0)),
                source(0, **inputs(connector='count', connector_idx=1)),
            ],
            3,
        ),
    ],
)
def test_calls_of_a_step(sources, expected):
    made = distiller(*sources)
    run(made)
    assert calls(made) == expected


def test_shared_values_and_gradients():
    made = distiller(source(0), source(1), source(1, record_idx=1))
    losses, student = run(made)
    x = torch.ones(2, 3)
    once = student.layer(x)
    twice = student.layer(once)
    assert_close(losses['loss_0'], 2 * once.sum())
    assert_close(losses['loss_1'], (once + 1).sum())
    # The second call.
    assert_close(losses['loss_2'], (twice + 2).sum())
    sum(losses.values()).backward()
    scale = made.connectors['count'].scale
    assert_close(scale.grad, once.sum().detach())
    expected = torch.autograd.grad(
        3 * once.sum() + twice.sum(), student.layer.weight
    )
    assert_close(student.layer.weight.grad, *expected)


def test_nothing_is_kept_for_the_next_step():
    made = distiller(source(0), source(1))
    first, _ = run(made)
    made.clear()
    second, _ = run(made, torch.zeros(2, 3))
    assert calls(made) == 2
    assert first['loss_0'] != second['loss_0']


def test_what_a_connector_refuses():
    """The message says which one it is."""
    made = distiller(source(0))
    made.connectors['count'].forward = lambda feature: check_map(
        'feature', feature, 4
    )
    with pytest.raises(
        ValueError, match=r"^connectors\['count'\]: feature must .* \(2, 3\)$"
    ):
        run(made)
