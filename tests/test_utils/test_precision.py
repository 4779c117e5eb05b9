import pytest
import torch

from mmkd_plugin.utils.precision import full_precision


@full_precision
def seen(first, *rest, **named):
    """Say what arrives, and whether products keep their precision."""
    values = [first, *rest, *named.values()]
    kinds = [getattr(value, 'dtype', type(value)) for value in values]
    return kinds, (first @ first).dtype, first @ first


@pytest.mark.parametrize(
    ('given', 'got'),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(given, got):
    square = torch.eye(2, dtype=given)
    label = torch.zeros(2, dtype=torch.int64)
    kinds, product, _ = seen(square, square, label, 2.0, other=square, n=3)
    assert kinds == [got, got, torch.int64, float, got, int]
    assert product == got


def test_by_name():
    kinds, _, _ = seen(first=torch.eye(2, dtype=torch.float16), other=1)
    assert kinds == [torch.float32, int]


def test_autocast_is_off_inside_and_on_after():
    # 257 is no bfloat16 number.
    square = torch.full((1, 1), 257.0)
    with torch.autocast('cpu', torch.bfloat16):
        assert (square @ square).dtype == torch.bfloat16
        _, dtype, product = seen(square)
        assert dtype == torch.float32
        assert product.item() == 257.0**2
        assert (square @ square).dtype == torch.bfloat16


def test_autocast_is_on_after_an_exception():
    @full_precision
    def fail(value):
        raise KeyError('no')

    square = torch.eye(2)
    with torch.autocast('cpu', torch.bfloat16):
        with pytest.raises(KeyError):
            fail(square)
        assert (square @ square).dtype == torch.bfloat16


def test_gradient_has_the_dtype_of_the_argument():
    value = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)

    @full_precision
    def scale(tensor, factor):
        return (tensor * factor).sum()

    scale(value, 3.0).backward()
    assert value.grad.dtype == torch.bfloat16
    assert value.grad.tolist() == [3.0, 3.0]


def test_without_a_tensor_the_function_complains():
    @full_precision
    def demand(value, name='x'):
        raise ValueError(f'{name} is {value}')

    with pytest.raises(ValueError, match='x is 1'):
        demand(1)
    with pytest.raises(TypeError, match='missing 1 required'):
        demand()


def test_name_and_docs_stay():
    @full_precision
    def documented(value):
        """What it does."""

    assert documented.__name__ == 'documented'
    assert documented.__doc__ == 'What it does.'
