import math

import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import (
    ConfigurableDistiller,
    OFDLoss,
    ofd_loss,
    ofd_margin,
)


def test_margin_is_the_mean_of_the_negative_values():
    """Integrate numerically, also where almost nothing is negative."""
    weight = torch.tensor([1.0, -2.0, 0.5, 0.1, 1.0], dtype=torch.float64)
    bias = torch.tensor([0.0, -3.0, 1.0, 2.0, 60.0], dtype=torch.float64)
    expected = []
    for gamma, beta in zip(weight.tolist(), bias.tolist(), strict=True):
        sigma = abs(gamma)
        # Where the mass below zero is; the density relative to its top.
        top = min(beta, 0.0)
        rate = max(abs(beta) / sigma**2, 1 / sigma)
        width = 12 * sigma + abs(beta) if beta <= 0 else 45 / rate
        x = torch.linspace(-width, 0, 400_001, dtype=torch.float64)
        mass = (((top - beta) ** 2 - (x - beta) ** 2) / (2 * sigma**2)).exp()
        mean = torch.trapezoid(x * mass, x) / torch.trapezoid(mass, x)
        expected.append(mean.item())
    assert_close(
        ofd_margin(weight, bias),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-7,
        atol=0,
    )


def test_margin_has_no_step_where_its_form_changes():
    z = torch.tensor([100 - 1e-9, 100 + 1e-9], dtype=torch.float64)
    below, above = ofd_margin(torch.ones(2).double(), z)
    assert_close(below, above, rtol=3e-10, atol=0)
    far = ofd_margin(torch.ones(3), torch.tensor([1e4, 1e30, -1e30]))
    assert_close(far, torch.tensor([-1e-4, -1e-30, -1e30]))


def test_margin_of_a_constant_channel():
    margin = ofd_margin(torch.zeros(3), torch.tensor([2.0, 0.0, -2.0]))
    assert margin.tolist() == [0.0, 0.0, -2.0]


def test_released_margin_differs_for_rare_channels_alone():
    weight = torch.tensor([1.0, -2.0, 2.0])
    # The tail is 0.001 at 3.0902 deviations.
    bias = torch.tensor([3.0, 6.15, 6.2])
    formula = ofd_margin(weight, bias)
    released = ofd_margin(weight, bias, 'released')
    assert (released[:2] == formula[:2]).all()
    assert released[2] == -6.0
    assert formula[2] > -0.6


def test_equals_the_four_branches(seed):
    preds_S, preds_T = 2 * torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    weight, bias = torch.rand(3).double() + 0.5, torch.randn(3).double()
    margin = ofd_margin(weight, bias).view(1, 3, 1, 1).expand_as(preds_S)
    active = preds_T > 0
    lower = (preds_S <= preds_T) & ~active
    clipped = ~active & (preds_T <= margin)
    branches = torch.zeros_like(preds_S)
    branches[active] = (preds_S - preds_T)[active].square()
    between = ~active & ~clipped & ~lower
    branches[between] = (preds_S - preds_T)[between].square()
    above = clipped & (preds_S > margin)
    branches[above] = (preds_S - margin)[above].square()
    for part in (active, between, above, lower, clipped & ~above):
        assert part.any()
    value = ofd_loss(preds_S, preds_T, weight, bias)
    assert_close(value, branches.sum() / 4, rtol=1e-12, atol=0)


@pytest.mark.parametrize('form', ['formula', 'released'])
def test_margins_are_read_from_the_teacher(form):
    """Its parameters come by recorder; nothing is trained in them."""

    def net():
        torch.manual_seed(3)
        layers = [torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)]
        return torch.nn.Sequential(*layers, torch.nn.ReLU(inplace=True))

    student, teacher = net(), net().eval().requires_grad_(False)
    teacher[1].bias.copy_(torch.tensor([-1.0, 0.5, 4.0]))
    recorders = dict(pre=dict(type='ModuleOutputs', source='1'))
    parameters = {
        name: dict(type='Parameter', source=f'1.{name}')
        for name in ('weight', 'bias')
    }
    distiller = ConfigurableDistiller(
        student_recorders=recorders,
        teacher_recorders=dict(recorders, **parameters),
        distill_losses=dict(loss_ofd=dict(type='OFDLoss', margin_form=form)),
        loss_forward_mappings=dict(
            loss_ofd=dict(
                preds_S=dict(from_student=True, recorder='pre'),
                preds_T=dict(from_student=False, recorder='pre'),
                bn_weight=dict(from_student=False, recorder='weight'),
                bn_bias=dict(from_student=False, recorder='bias'),
            )
        ),
    )
    distiller.prepare_from_student(student)
    distiller.prepare_from_teacher(teacher)
    images = torch.randn(4, 2, 3, 3)
    with distiller.record_teacher():
        teacher(images)
    with distiller.record_student():
        student(images)
    (value,) = distiller.compute_distill_losses().values()
    # What the ReLU behind it overwrites was recorded before.
    features = [net[1](net[0](images)) for net in (student, teacher)]
    expected = ofd_loss(*features, teacher[1].weight, teacher[1].bias, form)
    assert_close(value, expected)
    value.backward()
    assert student[0].weight.grad.abs().sum() > 0


def test_gradient_stops_where_the_student_is_low():
    preds_S = torch.tensor([-5.0, -0.5, -0.5, 3.0]).view(1, 1, 1, 4)
    preds_T = torch.tensor([-9.0, -9.0, 1.0, 1.0]).view(1, 1, 1, 4)
    preds_S.requires_grad_()
    OFDLoss()(preds_S, preds_T, torch.ones(1), torch.zeros(1)).backward()
    margin = -math.sqrt(2 / math.pi)
    expected = torch.tensor([0.0, 2 * (-0.5 - margin), -3.0, 4.0])
    assert_close(preds_S.grad.flatten(), expected)
