import math
import sys
import types

import pytest
import torch
from mmengine.registry import TASK_UTILS

from mmkd_plugin.models import (
    FunctionInputs,
    FunctionOutputs,
    MethodInputs,
    MethodOutputs,
)


class Base:
    limit = 3

    def double(self, x, *, shift=0):
        return 2 * x + shift

    @staticmethod
    def static(x):
        return x + 1

    @classmethod
    def named(cls, x=0):
        return cls.__name__

    class Inner:
        def method(self):
            return 'inner'


class Derived(Base):
    pass


def plain(x, *, shift=0):
    return x + shift


@pytest.fixture
def module(monkeypatch):
    """A module with the functions and classes above, under the name `kit`."""
    made = types.ModuleType('kit')
    made.Base, made.Derived, made.plain = Base, Derived, plain
    made.value = 3
    monkeypatch.setitem(sys.modules, 'kit', made)
    before = {cls: dict(vars(cls)) for cls in (Base, Derived)}
    yield made
    assert made.plain is plain
    for cls, attributes in before.items():
        assert dict(vars(cls)) == attributes


def test_function_inputs(module):
    recorder = FunctionInputs('kit.plain')
    recorder.initialize(None)
    x = torch.ones(1)
    with recorder:
        assert module.plain is not plain
        assert module.plain(x, shift=2) == 3
        x.zero_()
    assert module.plain is plain
    # A copy, so that it stays what it was.
    assert recorder.get_record(data_idx=0).item() == 1
    assert recorder.get_record(data_idx='shift') == 2


def test_function_outputs(module):
    recorder = FunctionOutputs('kit.plain')
    with recorder:
        out = module.plain(torch.ones(1))
        module.plain(torch.zeros(1), shift=4)
        out.zero_()
    assert [r.item() for r in recorder.records] == [1, 4]
    module.plain(torch.ones(1))
    assert len(recorder.records) == 2


def test_function_where_it_is_used():
    recorder = FunctionOutputs('torch.nn.functional.relu')
    net = torch.nn.ReLU()
    before = torch.nn.functional.relu
    with recorder:
        net(torch.tensor([-1.0, 2.0]))
    assert recorder.get_record().tolist() == [0, 2]
    assert torch.nn.functional.relu is before


def test_method(module):
    inputs = MethodInputs('kit.Base.double')
    outputs = MethodOutputs('kit.Base.double')
    thing = Base()
    with inputs, outputs:
        assert thing.double(torch.ones(1), shift=3) == 5
        # The class watches all that is derived from it.
        Derived().double(torch.zeros(1))
    assert inputs.get_record(data_idx=0) is thing
    assert inputs.get_record(data_idx=1).item() == 1
    assert inputs.get_record(data_idx='shift') == 3
    assert [r.item() for r in outputs.records] == [5, 0]
    assert Base().double(2) == 4


@pytest.mark.parametrize('owner', [Base, Derived])
def test_static_method(module, owner):
    recorder = MethodInputs(f'kit.{owner.__name__}.static')
    outputs = MethodOutputs(f'kit.{owner.__name__}.static')
    with recorder, outputs:
        assert owner.static(1) == 2
        assert owner().static(2) == 3
    assert [tuple(r) for r in recorder.records] == [(1,), (2,)]
    assert outputs.records == [2, 3]


@pytest.mark.parametrize('owner', [Base, Derived])
def test_class_method(module, owner):
    """A derived class stays itself while its base is watched."""
    recorder = MethodInputs(f'kit.{owner.__name__}.named')
    with recorder:
        assert owner.named(1) == owner.__name__
        assert Derived.named() == 'Derived'
        assert Derived().named(x=2) == 'Derived'
    assert [r[0] for r in recorder.records] == [owner, Derived, Derived]
    assert recorder.get_record(record_idx=2, data_idx='x') == 2


def test_inherited_method_is_watched_on_the_derived_class_alone(module):
    recorder = MethodOutputs('kit.Derived.double')
    with recorder:
        assert 'double' in vars(Derived)
        assert Derived().double(4) == 8
        assert Base().double(5) == 10
    assert recorder.records == [8]
    assert 'double' not in vars(Derived)


def test_nested_class(module):
    recorder = MethodOutputs('kit.Base.Inner.method')
    with recorder:
        assert Base.Inner().method() == 'inner'
    assert recorder.records == ['inner']


def test_restored_after_exceptions(module):
    recorder = FunctionInputs('kit.plain')
    with pytest.raises(TypeError), recorder:
        module.plain(torch.ones(1), nonsense=1)
    assert module.plain is plain
    # What led to the exception was recorded, its result could not be.
    assert len(recorder.records) == 1
    outputs = MethodOutputs('kit.Derived.static')
    with pytest.raises(KeyError), outputs:
        raise KeyError
    assert 'static' not in vars(Derived)


def test_several_on_one_function(module):
    recorders = [
        FunctionInputs('kit.plain'),
        FunctionOutputs('kit.plain'),
        FunctionInputs('kit.plain'),
    ]
    for _ in range(2):
        with recorders[0], recorders[1], recorders[2]:
            module.plain(torch.ones(1), shift=1)
        assert module.plain is plain
        assert [len(r.records) for r in recorders] == [1, 1, 1]


def test_watched_function_keeps_its_name(module):
    with FunctionInputs('kit.plain'):
        assert module.plain.__name__ == 'plain'


@pytest.mark.parametrize(
    ('kind', 'source', 'message'),
    [
        (FunctionInputs, 'no_such.thing', "there is no module 'no_such'"),
        (FunctionInputs, 'plain', "there is no module 'plain'"),
        (
            FunctionInputs,
            'kit.plan',
            "kit has no function 'plan'; near.*plain",
        ),
        (FunctionInputs, 'kit.value', "kit has no function 'value'"),
        (
            FunctionOutputs,
            'torch.nn.functional.rellu',
            'torch.nn.functional has no function .rellu.; nearest: relu',
        ),
        (
            MethodOutputs,
            'kit.Bas.double',
            "kit has no 'Bas'; nearest: Base",
        ),
        (
            MethodOutputs,
            'kit.Base.duoble',
            "Base has no function 'duoble'; nearest: double",
        ),
        (MethodInputs, 'kit.Base.limit', "Base has no function 'limit'"),
        (
            FunctionInputs,
            'kit.Base.double',
            'FunctionInputs needs a function of a module, but '
            "'kit.Base.double' belongs to .*Base",
        ),
        (
            MethodInputs,
            'kit.plain',
            "MethodInputs needs a function of a class, but 'kit.plain'",
        ),
    ],
)
def test_wrong_source(module, kind, source, message):
    with pytest.raises(ValueError, match=message):
        kind(source)


@pytest.mark.parametrize(
    ('kind', 'source'),
    [
        ('FunctionInputs', 'math.sqrt'),
        ('FunctionOutputs', 'math.sqrt'),
        ('MethodInputs', 'mmpretrain.models.ClsHead.pre_logits'),
        ('MethodOutputs', 'mmpretrain.models.ClsHead.pre_logits'),
    ],
)
def test_built_from_a_config(kind, source):
    recorder = TASK_UTILS.build(dict(type=kind, source=source))
    recorder.initialize(torch.nn.Identity())
    with recorder:
        root = math.sqrt(4.0)
    recorder.remove()
    assert root == 2
    assert len(recorder.records) == ('math' in source)
