"""One backward pass, a step of each optimizer."""

import functools
from contextlib import contextmanager

import mmengine.optim.optimizer.amp_optimizer_wrapper as engine_amp
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn
from toy_students import batch, online

from mmkd_plugin.engine.optimizers import (
    JointOptimWrapper,
    PerStudentOptimWrapperConstructor,
    StudentAmpOptimWrapper,
)


def joint(model, **options):
    config = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), **options)
    return PerStudentOptimWrapperConstructor(config)(model)


def prepared(num=6, seed=0):
    """A batch as the data loader gives it, without normalisation."""
    return batch(num=num, seed=seed)


def scheme(**options):
    return online(
        data_preprocessor=dict(type='BaseDataPreprocessor'), **options
    )


def test_steps_are_those_of_each_student_by_itself():
    model, other = scheme(), scheme()
    wrapper = joint(
        model,
        clip_grad=dict(max_norm=0.2),
        students=dict(b=dict(optimizer=dict(lr=0.01))),
    )
    optimizers = {
        name: torch.optim.SGD(s.parameters(), lr=lr, momentum=0.9)
        for (name, s), lr in zip(
            other.students.items(), (0.1, 0.01), strict=True
        )
    }
    norms = []
    for seed in range(4):
        data = prepared(seed=seed)
        log = model.train_step(data, wrapper)
        losses = other(**data, mode='loss')
        assert log['loss'] == sum(losses.values())
        # A backward pass and a clipping for each.
        for name, student in other.students.items():
            own = sum(v for k, v in losses.items() if k.startswith(f'{name}.'))
            own.backward(retain_graph=True)
            norms.append(
                nn.utils.clip_grad_norm_(student.parameters(), 0.2).item()
            )
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        for key, value in other.state_dict().items():
            assert torch.allclose(
                model.state_dict()[key], value, rtol=1e-5, atol=1e-7
            ), key
    # Both were clipped, and not to one norm together.
    assert min(norms) > 0.2


def test_each_optimizer_changes_its_student_alone():
    model = scheme()
    before = {k: v.clone() for k, v in model.named_parameters()}
    wrapper = joint(model, students=dict(a=dict(optimizer=dict(lr=0.0))))
    own = {
        name: {id(p) for g in w.optimizer.param_groups for p in g['params']}
        for name, w in wrapper.items()
    }
    for name, student in model.students.items():
        assert own[name] == {id(p) for p in student.parameters()}
    model.train_step(prepared(), wrapper)
    for key, value in model.named_parameters():
        same = torch.equal(value, before[key])
        assert same == key.startswith('students.a.'), key
        assert value.grad is None


class Counter(nn.Module):
    """Counts how often gradients are not synchronised."""

    def __init__(self):
        super().__init__()
        self.count = 0

    @contextmanager
    def no_sync(self):
        self.count += 1
        yield


@pytest.mark.parametrize('amp', [False, True])
def test_accumulation_is_that_of_a_single_wrapper(amp, monkeypatch):
    if amp:
        let_cpu_scale(monkeypatch)
    model, other = scheme(), scheme()
    options = dict(type='AmpOptimWrapper', loss_scale=4.0) if amp else {}
    wrapper = joint(model, accumulative_counts=3, **options)
    single = OptimWrapper(
        torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9),
        accumulative_counts=3,
    )
    # 7 is no multiple of 3: the last step has the gradient of one.
    for one in (wrapper, single):
        one.initialize_count_status(nn.Identity(), 0, 7)
    changed = []
    for seed in range(7):
        before = {k: v.clone() for k, v in model.named_parameters()}
        data = prepared(seed=seed)
        losses = model(**data, mode='loss')
        wrapper.update_params(sum(losses.values()))
        losses = other(**data, mode='loss')
        single.update_params(sum(losses.values()))
        assert wrapper.inner_count == single.inner_count == seed + 1
        for key, value in other.named_parameters():
            found = dict(model.named_parameters())[key]
            assert torch.allclose(found, value, rtol=1e-5, atol=1e-7), key
        changed.append(
            any(
                not torch.equal(v, before[k])
                for k, v in model.named_parameters()
            )
        )
    assert changed == [False, False, True, False, False, True, True]
    counter = Counter()
    wrapper.initialize_count_status(nn.Identity(), 0, 7)
    for _ in range(3):
        with wrapper.optim_context(counter):
            wrapper._inner_count += 1
    assert counter.count == 2


def let_cpu_scale(monkeypatch):
    """Let the engine's wrapper, which refuses the CPU, work on it."""
    monkeypatch.setattr(engine_amp, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        engine_amp,
        'GradScaler',
        functools.partial(torch.amp.GradScaler, device='cpu'),
    )


class Pair(BaseModel):
    """Two numbers, of which the first one's gradient can overflow."""

    def __init__(self):
        super().__init__()
        self.students = nn.ModuleDict(
            dict(a=nn.Linear(1, 1), b=nn.Linear(1, 1))
        )

    def forward(self, inputs, mode='loss'):
        self.dtype = self.students['b'](torch.ones(1, 1)).dtype
        a, b = (s(torch.ones(1, 1)).float() for s in self.students.values())
        return dict(loss_a=inputs[0] * a.sum(), loss_b=inputs[1] * b.sum())


def test_one_scaler_for_all(monkeypatch):
    let_cpu_scale(monkeypatch)
    model = Pair()
    wrapper = joint(
        model,
        type='AmpOptimWrapper',
        loss_scale=dict(init_scale=8.0, growth_interval=2),
        clip_grad=dict(max_norm=0.5),
    )
    assert all(isinstance(w, StudentAmpOptimWrapper) for w in wrapper.values())
    scalers = {id(w.loss_scaler) for w in wrapper.values()}
    assert len(scalers) == 1
    scaler = wrapper['a'].loss_scaler

    def step(a, b):
        before = {k: v.clone() for k, v in model.named_parameters()}
        model.train_step(dict(inputs=torch.tensor([a, b])), wrapper)
        return [
            not torch.equal(
                before[f'students.{name}.bias'],
                model.students[name].bias,
            )
            for name in 'ab'
        ]

    bias = model.students['a'].bias.item()
    # Clipped after the scale was taken out: 2 numbers of gradient 3.
    assert step(3.0, 3.0) == [True, True]
    moved = bias - model.students['a'].bias.item()
    assert moved == pytest.approx(0.1 * 0.5 / 2**0.5, rel=1e-2)
    assert scaler.get_scale() == 8.0
    # Updated once a step: it grows after two, not after one.
    step(1.0, 1.0)
    assert scaler.get_scale() == 16.0
    # An overflow costs the one student its step, and the scale is halved.
    assert step(torch.inf, 1.0) == [False, True]
    assert scaler.get_scale() == 8.0
    assert step(1.0, 1.0) == [True, True]
    # The forward pass was under autocast.
    assert model.dtype == torch.bfloat16


def test_scaler_is_in_the_checkpoint(monkeypatch):
    let_cpu_scale(monkeypatch)
    amp = dict(type='AmpOptimWrapper', loss_scale=dict(init_scale=8.0))
    wrapper = joint(Pair(), **amp)
    scaler = wrapper['a'].loss_scaler
    # It has no scale before its first use.
    scaler.scale(torch.ones(()))
    scaler.update(32.0)
    state = wrapper.state_dict()
    other = joint(Pair(), **amp)
    other.load_state_dict(state)
    scalers = {w.loss_scaler for w in other.values()}
    assert [s.get_scale() for s in scalers] == [32.0]


def test_state_of_all_optimizers():
    model, data = scheme(), prepared()
    wrapper = joint(model)
    model.train_step(data, wrapper)
    state = wrapper.state_dict()
    assert list(state) == ['a', 'b']
    other = joint(model)
    other.load_state_dict(state)
    for name in 'ab':
        one, two = (
            w[name].optimizer.state_dict()['state'] for w in (wrapper, other)
        )
        assert len(one) > 5
        for key, value in one.items():
            assert torch.equal(
                value['momentum_buffer'], two[key]['momentum_buffer']
            )
    with pytest.raises(
        ValueError, match=r"states of \['a'\], but the students are \['a', 'b"
    ):
        other.load_state_dict(dict(a=state['a']))
    single = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"\['param_groups', 'state'\], but"):
        other.load_state_dict(single.state_dict())


def test_wrappers_of_one_kind():
    def plain():
        return OptimWrapper(
            torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        )

    class Mine(OptimWrapper):
        pass

    strange = Mine(plain().optimizer)
    with pytest.raises(ValueError, match=r"got \['Mine', 'OptimWrapper'\]"):
        JointOptimWrapper(dict(a=plain(), b=strange))
    with pytest.raises(ValueError, match=r'accumulative_counts .* got 0'):
        JointOptimWrapper(dict(a=plain(), b=plain()), accumulative_counts=0)
