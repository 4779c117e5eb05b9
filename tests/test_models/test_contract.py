"""The contract that every registered loss and connector keeps.

The entries, with their references in plain loops, are in ``contracts``.
"""

import copy
import inspect
import pickle
import re
import sys

import pytest
import torch
from contracts import CONNECTORS, LOSSES, merged, regions, relation
from contracts.base import REGISTERED_CONNECTORS, REGISTERED_LOSSES
from mmengine.registry import MODELS, DefaultScope
from torch.testing import assert_close

import mmkd_plugin.models as package

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32, torch.float64]
REGISTERED = {**REGISTERED_LOSSES, **REGISTERED_CONNECTORS}


def listed(contracts, attribute):
    """Make a parameter of each case of each contract."""
    made = []
    for name, contract in contracts.items():
        entries = getattr(contract, attribute)
        if isinstance(entries, dict):
            entries = [((value,), key) for key, value in entries.items()]
        else:
            entries = [(values, i) for i, values in enumerate(entries)]
        for values, key in entries:
            made.append(pytest.param(name, *values, id=f'{name}-{key}'))
    return made


loss_cases = pytest.mark.parametrize(('name', 'case'), listed(LOSSES, 'cases'))
connector_cases = pytest.mark.parametrize(
    ('name', 'case'), listed(CONNECTORS, 'cases')
)


def build(name, options=None, **more):
    torch.manual_seed(7)
    module = MODELS.build(dict(type=name, **(options or {}), **more))
    prepare = getattr(LOSSES.get(name), 'prepare', None)
    return module if prepare is None else prepare(module)


def student_side(name, inputs, requires_grad=True):
    """Copy the inputs; the student's tensors are leaves of the graph."""
    made = {}
    for key, value in inputs.items():
        made[key] = value.detach().clone()
        if key in LOSSES[name].student:
            made[key].requires_grad_(requires_grad)
    return made


def cast(inputs, dtype):
    return {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in inputs.items()
    }


def restride(value):
    """Copy a tensor into memory of another order."""
    if value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value.transpose(0, -1).contiguous().transpose(0, -1)


def gradients(name, inputs):
    return [inputs[key].grad for key in LOSSES[name].student]


# ---------------------------------------------------------------- all


def test_every_loss_has_an_entry():
    assert set(LOSSES) == set(REGISTERED_LOSSES)


def test_every_connector_has_an_entry():
    assert set(CONNECTORS) == set(REGISTERED_CONNECTORS)


def test_no_two_entries_of_one_name():
    with pytest.raises(
        ValueError, match=r'SDDLoss .* in contracts\.regions and in contracts'
    ):
        merged('LOSSES', [relation, regions, regions])


@pytest.mark.parametrize('name', REGISTERED)
def test_one_class_a_file_named_after_it(name):
    cls = REGISTERED[name]
    file = cls.__module__.rsplit('.', 1)[-1]
    assert file.replace('_', '') == name.lower()
    same_file = [
        c for c in REGISTERED.values() if c.__module__ == cls.__module__
    ]
    assert same_file == [cls]
    room = sys.modules[cls.__module__.rsplit('.', 1)[0]]
    assert name in room.__all__
    assert getattr(package, name) is cls


@pytest.mark.parametrize('scope', [None, 'mmpretrain'])
@pytest.mark.parametrize('name', REGISTERED)
def test_bare_name_in_any_scope(name, scope):
    contract = {**LOSSES, **CONNECTORS}[name]
    with DefaultScope.overwrite_default_scope(scope):
        for case in contract.cases.values():
            assert type(build(name, case.options)) is REGISTERED[name]


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    listed({**LOSSES, **CONNECTORS}, 'rejected'),
)
def test_bad_option(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, options)


@pytest.mark.parametrize(
    ('name', 'options', 'inputs', 'message'),
    listed({**LOSSES, **CONNECTORS}, 'rejected_inputs'),
)
def test_bad_input(name, options, inputs, message):
    module = build(name, options)
    with pytest.raises(ValueError, match=message):
        module(**inputs)
    # Not only the first time.
    with pytest.raises(ValueError, match=message):
        module(**inputs)


# ------------------------------------------------------------- losses


@pytest.mark.parametrize('name', LOSSES)
def test_loss_options(name):
    options = dict(inspect.signature(REGISTERED[name]).parameters)
    assert list(options)[-1] == 'loss_weight'
    assert options['loss_weight'].default == 1.0
    assert {p.kind for p in options.values()} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    case, *_ = LOSSES[name].cases.values()
    for bad in (float('nan'), float('inf'), '1', True, None):
        with pytest.raises(
            ValueError, match=f'loss_weight must .* got {bad!r}'
        ):
            build(name, case.options, loss_weight=bad)


@loss_cases
def test_loss_value(name, case):
    inputs = case.inputs(4)
    expected = LOSSES[name].reference(**inputs, **case.options)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    value = build(name, case.options).double()(**inputs)
    assert value.dtype == torch.float64
    assert_close(value, expected, rtol=1e-12, atol=1e-12)
    # A reference that is zero everywhere would prove nothing.
    assert expected.abs().sum() > 1e-4


@loss_cases
def test_loss_gradient(name, case):
    inputs = student_side(name, case.inputs(3))
    loss = build(name, case.options).double()
    names = LOSSES[name].student
    if LOSSES[name].held is not None:
        # What is detached of the student is no constant for gradcheck.
        held = LOSSES[name].held(case.inputs(3), case.options)
        expected = torch.autograd.grad(
            held(**inputs).sum(), [inputs[key] for key in names]
        )
        loss(**inputs).sum().backward()
        assert_close(gradients(name, inputs), list(expected))
        return
    torch.autograd.gradcheck(
        lambda *tensors: loss(
            **{**inputs, **dict(zip(names, tensors, strict=True))}
        ),
        [inputs[key] for key in names],
        raise_exception=True,
    )


@loss_cases
def test_loss_function_of_the_same_name(name, case):
    """The pure function takes its tensors by name as well."""
    inputs, options = case.inputs(4), case.options
    function = LOSSES[name].function
    if function is None:
        module = sys.modules[REGISTERED[name].__module__]
        function = getattr(module, module.__name__.rsplit('.', 1)[-1])
        accepted = inspect.signature(function).parameters
        options = {k: v for k, v in options.items() if k in accepted}
    assert_close(
        function(**inputs, **options),
        build(name, case.options)(**inputs),
        rtol=0,
        atol=0,
    )


@loss_cases
def test_loss_weight(name, case):
    inputs = case.inputs(4)
    plain = build(name, case.options)(**inputs)
    weighted = build(name, case.options, loss_weight=2.5)(**inputs)
    assert_close(weighted, 2.5 * plain)
    assert build(name, case.options, loss_weight=0)(**inputs).sum() == 0


@loss_cases
@pytest.mark.parametrize('dtype', DTYPES)
def test_loss_dtype(name, case, dtype):
    inputs = student_side(name, cast(case.inputs(4), dtype))
    value = build(name, case.options).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    )(**inputs)
    assert value.dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    rounded = cast(cast(case.inputs(4), dtype), torch.float64)
    exact = build(name, case.options).double()(**rounded)
    # The inputs are rounded, the computation on them is not.
    assert_close(value.double(), exact, rtol=2e-5, atol=1e-6)
    value.sum().backward()
    for gradient in gradients(name, inputs):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


@loss_cases
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_loss_ignores_autocast(name, case, dtype):
    inputs = cast(case.inputs(4), dtype)
    expected = build(name, case.options)(**inputs)
    with torch.autocast('cpu', torch.bfloat16):
        value = build(name, case.options)(**inputs)
    assert value.dtype == torch.float32
    assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(('name', 'inputs'), listed(LOSSES, 'extremes'))
def test_loss_extreme(name, inputs, dtype):
    variants = [case.options for case in LOSSES[name].cases.values()]
    for options in [*variants, dict(variants[0], tau=4.0)]:
        if (
            'tau' in options
            and 'tau' not in inspect.signature(REGISTERED[name]).parameters
        ):
            continue
        made = student_side(name, cast(inputs, dtype))
        value = build(name, options)(**made)
        assert value.isfinite().all(), options
        value.sum().backward()
        for gradient in gradients(name, made):
            assert gradient.isfinite().all(), options


@loss_cases
def test_loss_hides_no_nan(name, case):
    """A run that has diverged must be seen in the log."""
    for key in (*LOSSES[name].student, *LOSSES[name].teacher):
        inputs = case.inputs(4)
        inputs[key].view(-1)[0] = float('nan')
        value = build(name, case.options)(**inputs)
        assert value.isnan().any(), key


@loss_cases
@pytest.mark.parametrize('batch', [0, 1])
def test_loss_small_batch(name, case, batch):
    inputs = student_side(name, case.inputs(batch))
    value = build(name, case.options).double()(**inputs)
    expected = LOSSES[name].reference(**case.inputs(batch), **case.options)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert_close(value, expected)
    # Attached to the graph, or a process without samples would not take
    # part in the exchange of gradients.
    value.sum().backward()
    for gradient in gradients(name, inputs):
        assert gradient.isfinite().all()


@loss_cases
def test_loss_memory_order(name, case):
    inputs = student_side(name, case.inputs(4))
    loss = build(name, case.options)
    loss(**inputs).sum().backward()
    other = student_side(name, case.inputs(4), requires_grad=False)
    other = {key: restride(value) for key, value in other.items()}
    for key in LOSSES[name].student:
        assert not other[key].is_contiguous()
        other[key].requires_grad_()
    value = loss(**other)
    assert_close(value, loss(**inputs))
    value.sum().backward()
    assert_close(gradients(name, other), gradients(name, inputs))


@loss_cases
def test_loss_copies_after_a_step(name, case):
    loss = build(name, case.options)
    inputs = student_side(name, case.inputs(4))
    value = loss(**inputs)
    value.sum().backward()
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert_close(copied(**inputs), value, rtol=0, atol=0)


@loss_cases
@pytest.mark.parametrize('batch', [0, 4])
def test_loss_reaches_its_parameters(name, case, batch):
    """DDP waits for a gradient of every one of them."""
    loss = build(name, case.options)
    value = loss(**student_side(name, case.inputs(batch)))
    value.sum().backward()
    for parameter in loss.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) is (batch > 0)


@loss_cases
def test_loss_changes_in_training_alone(name, case):
    loss = build(name, case.options).eval()
    before = copy.deepcopy(loss.state_dict())
    inputs = student_side(name, case.inputs(4))
    value = loss(**inputs)
    value.sum().backward()
    assert_close(loss(**inputs), value, rtol=0, atol=0)
    with torch.no_grad():
        assert_close(loss.train()(**inputs), value, rtol=0, atol=0)
    assert_close(loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)


@loss_cases
def test_loss_leaves_teacher_alone(name, case):
    inputs = student_side(name, case.inputs(4))
    for key in LOSSES[name].teacher:
        inputs[key].requires_grad_()
    build(name, case.options)(**inputs).sum().backward()
    for key in LOSSES[name].teacher:
        assert inputs[key].grad is None
    for gradient in gradients(name, inputs):
        assert gradient.abs().sum() > 0


@loss_cases
def test_loss_leaves_inputs_alone(name, case):
    inputs = case.inputs(4)
    build(name, case.options)(**inputs)
    for key, value in case.inputs(4).items():
        assert_close(inputs[key], value, rtol=0, atol=0)


# --------------------------------------------------------- connectors


def joined(value):
    """Put what a connector returned side by side where it is a tuple."""
    if isinstance(value, tuple):
        return torch.cat([part.flatten(1) for part in value], dim=1)
    return value


def run(connector, inputs):
    """Pass the record by position and the rest by name, as a distiller."""
    record, *_ = inputs.values()
    rest = dict(list(inputs.items())[1:])
    return joined(connector(record, **rest))


def finite(value):
    return value.masked_fill(value.isneginf(), 0)


@pytest.mark.parametrize('name', CONNECTORS)
def test_connector_options(name):
    parameters = inspect.signature(REGISTERED[name]).parameters.values()
    assert {p.name for p in parameters if p.kind is not p.KEYWORD_ONLY} <= {
        'in_channels',
        'out_channels',
    }


@connector_cases
def test_connector_value(name, case):
    inputs = case.inputs(4)
    connector = build(name, case.options).double()
    expected = CONNECTORS[name].reference(connector, **inputs, **case.options)
    value = run(connector, inputs)
    assert_close(value, joined(expected), rtol=1e-12, atol=1e-12)


@connector_cases
def test_connector_gradient(name, case):
    inputs = case.inputs(3)
    connector = build(name, case.options).double()
    record, *_ = inputs
    torch.autograd.gradcheck(
        lambda tensor: finite(run(connector, {**inputs, record: tensor})),
        [inputs[record].requires_grad_()],
    )
    finite(run(connector, inputs)).pow(2).sum().backward()
    assert inputs[record].grad.abs().sum() > 0
    for parameter in connector.parameters():
        assert parameter.grad is not None


@connector_cases
def test_connector_state(name, case):
    connector = build(name, case.options)
    has_state = bool(connector.state_dict())
    assert has_state is CONNECTORS[name].learnable
    if has_state:
        assert all(p.requires_grad for p in connector.parameters())


@connector_cases
@pytest.mark.parametrize('dtype', DTYPES)
def test_connector_dtype(name, case, dtype):
    inputs = cast(case.inputs(4), dtype)
    value = run(build(name, case.options).to(dtype), inputs)
    assert value.dtype == dtype
    exact = run(
        build(name, case.options).to(dtype).double(),
        cast(inputs, torch.float64),
    )
    tolerance = 16 * torch.finfo(dtype).eps
    assert_close(value.double(), exact, rtol=tolerance, atol=tolerance)


@connector_cases
def test_connector_under_autocast(name, case):
    inputs = cast(case.inputs(4), torch.float32)
    connector = build(name, case.options)
    exact = run(connector, inputs)
    with torch.autocast('cpu', torch.bfloat16):
        value = run(connector, inputs)
    assert_close(value.float(), exact, rtol=0.05, atol=0.05)


@connector_cases
@pytest.mark.parametrize('batch', [0, 1])
def test_connector_small_batch(name, case, batch):
    inputs = cast(case.inputs(batch), torch.float32)
    # As in a validation: no batch norm normalises over nothing.
    connector = build(name, case.options).eval()
    value = run(connector, inputs)
    assert value.shape[0] == batch
    assert finite(value).isfinite().all()


@connector_cases
def test_connector_memory_order(name, case):
    inputs = cast(case.inputs(4), torch.float32)
    connector = build(name, case.options)
    other = {key: restride(value) for key, value in inputs.items()}
    assert not any(value.is_contiguous() for value in other.values())
    assert_close(run(connector, other), run(connector, inputs))


@connector_cases
def test_connector_copies_after_a_step(name, case):
    inputs = cast(case.inputs(4), torch.float32)
    connector = build(name, case.options)
    next(iter(inputs.values())).requires_grad_()
    value = run(connector, inputs)
    finite(value).sum().backward()
    for copied in (
        copy.deepcopy(connector),
        pickle.loads(pickle.dumps(connector)),
    ):
        assert_close(run(copied, inputs), value, rtol=0, atol=0)


@connector_cases
def test_connector_leaves_inputs_alone(name, case):
    inputs = case.inputs(4)
    run(build(name, case.options).double(), inputs)
    for key, value in case.inputs(4).items():
        assert_close(inputs[key], value, rtol=0, atol=0)


def test_entries_say_what_is_wrong():
    """A message without the bad value would pass an empty pattern."""
    for contract in {**LOSSES, **CONNECTORS}.values():
        for *_, message in [*contract.rejected, *contract.rejected_inputs]:
            assert re.search(
                r'got|leave|unmasked|only one of|has no option|there is no',
                message,
            )
