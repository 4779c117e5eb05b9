import math
from functools import partial
from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from mmkd_plugin.models.losses import (
    clamped_js_divergence,
    one_hot_loss,
    total_variation_l1,
)

# Name: function, number of inputs.
ALL = dict(
    js=(clamped_js_divergence, 2),
    js_soft=(partial(clamped_js_divergence, tau=4.0), 2),
    one_hot=(one_hot_loss, 1),
    total_variation=(total_variation_l1, 1),
)


@pytest.fixture(params=ALL)
def case(request, seed):
    """A function and float64 maps for it."""
    loss, count = ALL[request.param]
    return loss, list(torch.randn(count, 3, 4, 2, 5, dtype=torch.float64))


def with_gradients(loss, *inputs):
    """Get the value and the gradient of every input."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value, torch.autograd.grad(value, inputs)


@pytest.mark.parametrize(
    ('dtype', 'rtol'), [(torch.float64, 1e-9), (torch.float32, 2e-5)]
)
def test_golden_vectors(golden, dtype, rtol):
    cases = golden('mosaic_criterions')
    assert len(cases) >= 2
    for case in cases:
        logits, targets, images = (
            torch.tensor(case[name]).to(dtype)
            for name in ('logits', 'targets', 'images')
        )
        tau = case['T'].item()
        for name, loss, inputs in (
            (
                'jsdiv',
                partial(clamped_js_divergence, tau=tau),
                (logits, targets),
            ),
            ('onehot', one_hot_loss, (logits,)),
            ('tv_l1', total_variation_l1, (images,)),
        ):
            value, (gradient, *_) = with_gradients(loss, *inputs)
            assert value.dtype == dtype
            for found, key in (
                (value, f'{name}_f64'),
                (gradient, f'grad_{name}_f64'),
            ):
                expected = torch.tensor(case[key])
                bound = rtol * expected.abs().max().item()
                assert_close(found.double(), expected, rtol=0, atol=bound)


# ------------------------------------------------------------- plain loops


@pytest.mark.parametrize('shape', [(5, 7), (3, 4, 2, 5), (1, 3)])
@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_divergence_against_plain_loops(seed, shape, tau):
    preds = [5 * torch.randn(shape, dtype=torch.float64) for _ in range(2)]
    q, p = (
        (x / tau).softmax(dim=1).movedim(1, -1).flatten(0, -2).tolist()
        for x in preds
    )
    total = 0.0
    for q_row, p_row in zip(q, p, strict=True):
        for a, b in zip(q_row, p_row, strict=True):
            a, b, m = (min(max(x, 0.01), 0.99) for x in (a, b, (a + b) / 2))
            total += m * (math.log(m / a) + math.log(m / b)) / 2
    value = clamped_js_divergence(*preds, tau).item()
    assert_close(value, total / len(q), rtol=1e-12, atol=1e-14)


def test_one_hot_against_plain_loops(seed):
    for shape in ((5, 7), (3, 4, 2, 5), (1, 3)):
        preds_T = 3 * torch.randn(shape, dtype=torch.float64)
        rows = preds_T.movedim(1, -1).flatten(0, -2).tolist()
        losses = [
            math.log(sum(math.exp(z) for z in row)) - max(row) for row in rows
        ]
        value = one_hot_loss(preds_T).item()
        assert_close(value, sum(losses) / len(losses), rtol=1e-12, atol=0)


def test_total_variation_against_plain_loops(seed):
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    expected = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        gaps = [
            abs(channel[y][x] - channel[y + down][x + right])
            for channel in images.flatten(0, 1).tolist()
            for y, x in product(range(4), range(5))
            if y + down < 4 and 0 <= x + right < 5
        ]
        expected += sum(gaps) / len(gaps)
    value = total_variation_l1(images).item()
    assert_close(value, expected, rtol=1e-12, atol=0)


def test_gradients_are_those_of_the_values(case):
    loss, inputs = case
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


# ---------------------------------------------------------- known answers


def test_answers_known_beforehand(seed):
    logits = torch.randn(5, 7, dtype=torch.float64)
    # Nobody's answer is better than another.
    assert_close(one_hot_loss(torch.zeros(3, 4)).item(), math.log(4))
    assert_close(
        one_hot_loss(logits), cross_entropy(logits, logits.argmax(dim=1))
    )
    # Equal ones diverge only where their mean could be limited twice.
    assert clamped_js_divergence(logits, logits).abs() < 1e-12
    images = torch.zeros(1, 1, 3, 3)
    assert total_variation_l1(images) == 0
    images[0, 0, 1, 1] = 1
    # 2 of 6 neighbours to the side, 2 of 6 above and below, 2 of 4 twice.
    assert_close(total_variation_l1(images).item(), 2 / 3 + 1)


def test_divergence_flows_into_both_and_is_symmetric(seed):
    preds = torch.randn(2, 5, 4, dtype=torch.float64)
    value, gradients = with_gradients(clamped_js_divergence, *preds)
    swapped, of_swapped = with_gradients(clamped_js_divergence, *preds.flip(0))
    assert_close(swapped, value)
    assert_close(gradients, of_swapped[::-1])
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_resolution_changes_nothing_for_logits(seed):
    maps = torch.randn(2, 3, 4, 2, 5, dtype=torch.float64)
    finer = maps.repeat_interleave(3, 3).repeat_interleave(2, 4)
    for loss, count in (ALL['js'], ALL['one_hot']):
        assert_close(loss(*finer[:count]), loss(*maps[:count]))


# --------------------------------------------------- extremes and batches


@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_gaps_of_500_and_more(dtype):
    for gap in (100.0, 500.0, 30000.0):
        made = [
            torch.zeros(4, 3),
            gap * torch.eye(3)[[0, 1, 2, 0]],
            gap * torch.eye(3)[[0] * 4],
            -gap * torch.eye(3)[[1] * 4],
            torch.full((4, 3), -gap),
        ]
        for loss, count in ALL.values():
            for inputs in product(made, repeat=count):
                value, gradients = with_gradients(
                    loss, *(x.to(dtype).view(2, 3, 2, 1) for x in inputs)
                )
                assert value.isfinite()
                for gradient in gradients:
                    assert gradient.dtype == dtype
                    assert gradient.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_inputs_and_autocast(case, dtype):
    """Computed in float32, with gradients of the inputs' dtype."""
    loss, inputs = case
    rough = [x.to(dtype) for x in inputs]
    value, gradients = with_gradients(loss, *(x.float() for x in rough))
    with torch.autocast('cpu', dtype):
        under = with_gradients(loss, *rough)
    for found in (with_gradients(loss, *rough), under):
        assert found[0].dtype == torch.float32
        assert_close(found[0], value, rtol=0, atol=0)
        expected = [x.to(dtype) for x in gradients]
        assert_close(list(found[1]), expected, rtol=0, atol=0)


def test_empty_batch_is_a_zero_attached_to_the_graph(case):
    loss, inputs = case
    value, gradients = with_gradients(loss, *(x[:0] for x in inputs))
    assert value == 0
    assert all(gradient.shape == (0, 4, 2, 5) for gradient in gradients)


def test_batch_of_one_is_its_own_mean(case):
    loss, inputs = case
    one = [x[:1] for x in inputs]
    assert_close(loss(*one), loss(*(x.repeat(2, 1, 1, 1) for x in one)))


def test_images_without_neighbours():
    value, (gradient,) = with_gradients(
        total_variation_l1, torch.rand(2, 3, 1, 1)
    )
    assert value == 0
    assert (gradient == 0).all()
    row = torch.tensor([0.0, 1.0, 3.0]).view(1, 1, 1, 3)
    assert total_variation_l1(row) == 1.5
    assert total_variation_l1(row.mT) == 1.5


# ------------------------------------------------------------------ errors


def test_wrong_inputs_are_named():
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r'preds_T must be logits.*int64'):
        one_hot_loss(logits.long())
    with pytest.raises(ValueError, match=r'preds_S must be logits.*\(2,\)'):
        clamped_js_divergence(torch.zeros(2), logits)
    with pytest.raises(ValueError, match=r'same shape.*\(2, 3\) and \(1, 3\)'):
        clamped_js_divergence(logits, logits[:1])
    with pytest.raises(ValueError, match=r'tau must be .* > 0, but got 0'):
        clamped_js_divergence(logits, logits, tau=0)
    with pytest.raises(ValueError, match=r'\(B, C, H, W\).*\(2, 3\)'):
        total_variation_l1(logits)
    with pytest.raises(ValueError, match=r'images must be .* torch\.uint8'):
        total_variation_l1(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match='images must be a tensor'):
        total_variation_l1([logits])
