import math
from functools import partial
from itertools import product

import pytest
import torch
from torch.nn.functional import kl_div
from torch.testing import assert_close

from mmkd_plugin.models.losses import (
    adversarial_loss,
    alignment_loss,
    balance_loss,
    kl_divergence,
    patch_discriminator_loss,
    patch_generator_loss,
)

DISCRIMINATOR = dict(
    discriminator=patch_discriminator_loss,
    discriminator_sum=partial(patch_discriminator_loss, reduction='patch_sum'),
)
GENERATOR = dict(
    generator=patch_generator_loss,
    generator_sum=partial(patch_generator_loss, reduction='patch_sum'),
)
TEACHER = dict(
    alignment=alignment_loss,
    balance=balance_loss,
    balance_bits=partial(balance_loss, base=2),
)
ADVERSARIAL = dict(adversarial=adversarial_loss)
# The functions with the number of their inputs.
ALL = {
    **{
        name: (loss, 2) for name, loss in (DISCRIMINATOR | ADVERSARIAL).items()
    },
    **{name: (loss, 1) for name, loss in (GENERATOR | TEACHER).items()},
}


@pytest.fixture(params=ALL)
def case(request, seed):
    """A function and float64 leaves for it, also as logit maps."""
    loss, count = ALL[request.param]
    shapes = [(6, 10), (3, 4, 2, 5)]
    return loss, [
        [
            (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
            for _ in range(count)
        ]
        for shape in shapes
    ]


def with_gradients(loss, *inputs):
    """Get the value and the gradient of every input."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value, torch.autograd.grad(value, inputs)


def assert_near(found, expected, rtol):
    """Compare relative to the largest element."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    bound = rtol * expected.abs().max().item()
    assert_close(found.double(), expected, rtol=0, atol=bound)


def golden_losses(case):
    """Official values and gradients, and the function that makes them."""
    weights = {
        name: case[name].item()
        for name in ('local', 'align', 'adv', 'balance')
    }
    tau = case['T'].item()

    def terms(t_out, s_out, d_fake_after):
        return dict(
            local=patch_generator_loss(d_fake_after, reduction='patch_sum'),
            align=alignment_loss(t_out),
            adv=adversarial_loss(s_out, t_out),
            balance=balance_loss(t_out, base=2),
        )

    def of_generator(*inputs):
        found = terms(*inputs)
        return sum(weights[name] * found[name] for name in weights)

    def of_discriminator(d_fake, d_real):
        return weights['local'] * patch_discriminator_loss(
            d_fake, d_real, reduction='patch_sum'
        )

    def of_student(kd_s_out, kd_t_out):
        return kl_divergence(kd_s_out, kd_t_out, tau)

    def one(name):
        return lambda *inputs: terms(*inputs)[name]

    generator = ('t_out', 's_out', 'd_fake_after')
    yield 'loss_d', 'lossd', of_discriminator, ('d_fake', 'd_real'), 2
    yield 'loss_g', 'lossg', of_generator, generator, 3
    yield 'loss_s', 'losss', of_student, ('kd_s_out', 'kd_t_out'), 1
    for name in weights:
        yield f'loss_{name}', None, one(name), generator, 0


@pytest.mark.parametrize(
    ('dtype', 'rtol'), [(torch.float64, 1e-9), (torch.float32, 2e-5)]
)
def test_golden_vectors(golden, dtype, rtol):
    cases = golden('mosaic_objective')
    assert len(cases) >= 3
    for case in cases:
        for name, short, loss, inputs, learned in golden_losses(case):
            tensors = [torch.tensor(case[x]).to(dtype) for x in inputs]
            for x in tensors[:learned]:
                x.requires_grad_()
            value = loss(*tensors)
            assert value.dtype == dtype
            assert_near(value, case[f'{name}_f64'], rtol)
            if not learned:
                continue
            found = torch.autograd.grad(value, tensors[:learned])
            for x, gradient in zip(inputs, found, strict=False):
                assert_near(gradient, case[f'grad_{short}_{x}_f64'], rtol)


@pytest.mark.parametrize(
    ('dtype', 'rtol'), [(torch.float64, 1e-9), (torch.float32, 2e-5)]
)
def test_golden_vectors_of_the_criterions(golden, dtype, rtol):
    cases = golden('mosaic_criterions')
    assert len(cases) >= 2
    for case in cases:
        logits = torch.tensor(case['logits']).to(dtype)
        targets = torch.tensor(case['targets']).to(dtype)
        tau = case['T'].item()
        losses = dict(
            kldiv=lambda x, t=targets, tau=tau: kl_divergence(x, t, tau),
            class_balance=balance_loss,
        )
        if tau == 1:
            losses['kldiv_as_adversarial'] = lambda x, t=targets: (
                -adversarial_loss(x, t)
            )
        for name, loss in losses.items():
            name = name.removesuffix('_as_adversarial')
            value, (gradient,) = with_gradients(loss, logits)
            assert_near(value, case[f'{name}_f64'], rtol)
            assert_near(gradient, case[f'grad_{name}_f64'], rtol)


# ------------------------------------------------------------- plain loops


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def distributions(logits):
    """Log-probabilities, one list an image and position."""
    rows = logits.detach().movedim(1, -1).flatten(0, -2).tolist()
    result = []
    for row in rows:
        total = math.log(sum(math.exp(z) for z in row))
        result.append([z - total for z in row])
    return result


def discriminator_reference(fake, real, by_fake_images):
    parts = []
    for sign, answers in ((1, fake), (-1, real)):
        total = sum(softplus(sign * x) for x in answers.flatten().tolist())
        parts.append(
            total / (len(fake) if by_fake_images else answers.numel())
        )
    return sum(parts) / 2


def test_discriminator_against_plain_loops(seed):
    """Also for fewer real images than fakes, and for a whole-image net."""
    for shape in ((5, 1, 4, 3), (5, 1)):
        fake = 3 * torch.randn(shape, dtype=torch.float64)
        real = 3 * torch.randn(3, *shape[1:], dtype=torch.float64)
        for reduction in ('mean', 'patch_sum'):
            assert_close(
                patch_discriminator_loss(fake, real, reduction).item(),
                discriminator_reference(fake, real, reduction == 'patch_sum'),
                rtol=1e-12,
                atol=0,
            )


def test_generator_against_plain_loops(seed):
    fake = 3 * torch.randn(5, 1, 4, 3, dtype=torch.float64)
    total = sum(softplus(-x) for x in fake.flatten().tolist())
    for reduction, count in (('mean', 60), ('patch_sum', 5)):
        value = patch_generator_loss(fake, reduction).item()
        assert_close(value, total / count, rtol=1e-12, atol=0)


@pytest.mark.parametrize('shape', [(5, 7), (3, 4, 2, 5), (1, 7), (4, 1)])
def test_logit_terms_against_plain_loops(seed, shape):
    preds_S = 3 * torch.randn(shape, dtype=torch.float64)
    preds_T = 3 * torch.randn(shape, dtype=torch.float64)
    rows_S, rows_T = distributions(preds_S), distributions(preds_T)
    entropy = divergence = 0.0
    mean = [0.0] * shape[1]
    for row_S, row_T in zip(rows_S, rows_T, strict=True):
        for k, (q, p) in enumerate(zip(row_S, row_T, strict=True)):
            entropy -= math.exp(p) * p / len(rows_T)
            divergence += math.exp(p) * (p - q) / len(rows_T)
            mean[k] += math.exp(p) / len(rows_T)
    near = partial(assert_close, rtol=1e-12, atol=1e-14)
    near(alignment_loss(preds_T).item(), entropy)
    near(adversarial_loss(preds_S, preds_T).item(), -divergence)
    for base in (math.e, 2, 10):
        balance = sum(p * math.log(p, base) for p in mean)
        near(balance_loss(preds_T, base).item(), balance)


def test_gradients_are_those_of_the_values(case):
    loss, cases = case
    for inputs in cases:
        assert torch.autograd.gradcheck(loss, inputs)


def test_gradients_of_gradients(case):
    loss, (inputs, _) = case
    assert torch.autograd.gradgradcheck(loss, [x[:2, :4] for x in inputs])


# ---------------------------------------------------------- known answers


def test_answers_known_beforehand():
    undecided = torch.zeros(3, 4, dtype=torch.float64)
    log = partial(torch.tensor, dtype=torch.float64)
    assert_close(alignment_loss(undecided), log(math.log(4)))
    assert_close(balance_loss(undecided), log(-math.log(4)))
    assert_close(balance_loss(undecided, base=2), log(-2.0))
    sure = 1000 * torch.eye(4, dtype=torch.float64)
    assert alignment_loss(sure) == 0
    # Every class once: as balanced as can be, though every image is sure.
    assert_close(balance_loss(sure), log(-math.log(4)))
    # One class only.
    assert balance_loss(sure[:1].expand(4, 4)) == 0
    patches = undecided.view(3, 1, 2, 2)
    assert_close(patch_generator_loss(patches), log(math.log(2)))
    assert_close(
        patch_generator_loss(patches, 'patch_sum'), log(4 * math.log(2))
    )
    assert_close(patch_discriminator_loss(patches, patches), log(math.log(2)))


def test_agreement_is_the_largest_adversarial_loss(seed):
    preds_S = torch.randn(6, 10, dtype=torch.float64)
    preds_T = torch.randn(6, 10, dtype=torch.float64)
    assert adversarial_loss(preds_S, preds_T) < 0
    assert adversarial_loss(preds_T + 5, preds_T).abs() < 1e-12


def test_adversarial_gradient_flows_into_both_networks(seed):
    """And is that of the official form, where that has one."""
    preds = [torch.randn(6, 10, dtype=torch.float64) for _ in range(2)]

    def official(preds_S, preds_T):
        p, log_q = preds_T.softmax(dim=1), preds_S.log_softmax(dim=1)
        return -kl_div(log_q, p, reduction='batchmean')

    value, gradients = with_gradients(adversarial_loss, *preds)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)
    assert_close((value, gradients), with_gradients(official, *preds))
    # The divergence of the distillers leaves the teacher alone.
    preds_T = preds[1].requires_grad_()
    assert not kl_divergence(preds[0], preds_T).requires_grad


def test_adversarial_gradient_reaches_the_parameters_of_both(seed):
    image = torch.randn(4, 3, requires_grad=True)
    teacher, student = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    adversarial_loss(student(image), teacher(image)).backward()
    for weight in (image, teacher.weight, student.weight):
        assert weight.grad.abs().max() > 0


# ------------------------------------------------- what the options change


def test_patch_sum_is_the_mean_times_the_number_of_patches(seed):
    fake, real = torch.randn(2, 6, 1, 8, 5, dtype=torch.float64)
    for loss, inputs in (
        (patch_discriminator_loss, (fake, real)),
        (patch_generator_loss, (fake,)),
    ):
        official = with_gradients(
            partial(loss, reduction='patch_sum'), *inputs
        )
        mended = with_gradients(lambda *x, f=loss: 40 * f(*x), *inputs)
        assert_close(official, mended)


def test_fewer_real_images_count_less_in_the_official_form(seed):
    fake, real = torch.randn(2, 6, 1, 4, 4, dtype=torch.float64)
    few = real[:2]
    ours = patch_discriminator_loss(fake, real)
    # Repeated, real images change nothing in a mean.
    assert_close(
        patch_discriminator_loss(fake, few),
        patch_discriminator_loss(fake, few.repeat(3, 1, 1, 1)),
    )
    assert_close(patch_discriminator_loss(fake, real.repeat(2, 1, 1, 1)), ours)
    halves = [
        patch_discriminator_loss(fake, few[:0], r)
        for r in ('mean', 'patch_sum')
    ]
    real_part = patch_discriminator_loss(fake, few) - halves[0]
    official = patch_discriminator_loss(fake, few, 'patch_sum') - halves[1]
    assert_close(official, 16 * real_part * 2 / 6)


def finer(maps, factor):
    return maps.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


@pytest.mark.parametrize('name', [n for n in ALL if not n.endswith('_sum')])
def test_resolution_changes_nothing(name, seed):
    loss, count = ALL[name]
    maps = list(torch.randn(count, 3, 4, 2, 5, dtype=torch.float64))
    value, gradients = with_gradients(loss, *maps)
    larger, larger_gradients = with_gradients(
        loss, *(finer(x, 3) for x in maps)
    )
    assert_close(larger, value)
    for small, large in zip(gradients, larger_gradients, strict=True):
        assert_close(9 * large, finer(small, 3))


@pytest.mark.parametrize('name', [n for n in ALL if n.endswith('_sum')])
def test_official_forms_grow_with_the_resolution(name, seed):
    loss, count = ALL[name]
    maps = list(torch.randn(count, 3, 1, 2, 5, dtype=torch.float64))
    assert_close(loss(*(finer(x, 3) for x in maps)), 9 * loss(*maps))


def test_maps_of_one_position_are_answers(case):
    loss, (inputs, _) = case
    value, gradients = with_gradients(loss, *inputs)
    maps, of_maps = with_gradients(loss, *(x[..., None, None] for x in inputs))
    assert_close(maps, value)
    assert_close([x[..., 0, 0] for x in of_maps], list(gradients))


def test_batch_order_and_shifts_of_logits_do_not_matter(seed):
    preds_S, preds_T = torch.randn(2, 6, 5, 2, 2, dtype=torch.float64)
    order = torch.randperm(6)
    shift = torch.randn(6, 1, 2, 2, dtype=torch.float64)
    for loss, inputs in (
        (adversarial_loss, (preds_S, preds_T)),
        *((loss, (preds_T,)) for loss in TEACHER.values()),
    ):
        moved = [(x + shift)[order] for x in inputs]
        assert_close(loss(*moved), loss(*inputs))


# --------------------------------------------------------------- extremes


def extremes(gap):
    """Logits of 4 images and 3 classes that lie a gap apart."""
    eye = torch.eye(3)[[0, 1, 2, 0]]
    return dict(
        zero=torch.zeros(4, 3),
        sure=gap * eye,
        one_class=gap * torch.eye(3)[[0] * 4],
        other_class=gap * torch.eye(3)[[1] * 4],
        ruled_out=-gap * eye,
        all_low=torch.full((4, 3), -gap),
        all_high=torch.full((4, 3), gap),
        steps=gap * torch.arange(12.0).view(4, 3) / 11,
    )


@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize('name', ALL)
def test_gaps_of_500_and_more(name, dtype):
    loss, count = ALL[name]
    for gap in (100.0, 500.0, 30000.0):
        made = [x.to(dtype) for x in extremes(gap).values()]
        for inputs in product(made, repeat=count):
            for shape in ((4, 3), (2, 3, 2, 1)):
                value, gradients = with_gradients(
                    loss, *(x.reshape(shape) for x in inputs)
                )
                assert value.isfinite()
                for gradient in gradients:
                    assert gradient.dtype == dtype
                    assert gradient.isfinite().all()


def test_values_and_gradients_at_a_gap_of_500():
    made = extremes(500.0)
    one, other = made['one_class'], made['other_class']
    value, (of_student, of_teacher) = with_gradients(
        adversarial_loss, other, one
    )
    assert value == -500
    # (p_T - p_S) / B.
    assert_close(of_student, torch.tensor([[0.25, -0.25, 0]] * 4))
    assert (of_teacher == 0).all()
    value, (of_student, of_teacher) = with_gradients(
        adversarial_loss, made['zero'], one
    )
    assert_close(value, torch.tensor(-math.log(3)))
    assert_close(of_student, (torch.eye(3)[[0] * 4] - 1 / 3) / 4)
    assert (of_teacher == 0).all()
    # Undecided between two, the teacher can be pushed to what the student
    # rules out: p (KL - gap) with the gaps 500 and 0 and KL about 250.
    half = torch.tensor([[500.0, 500.0, 0.0]])
    value, (_, of_teacher) = with_gradients(adversarial_loss, other[:1], half)
    assert_close(value, torch.tensor(math.log(2) - 250))
    assert_close(of_teacher, torch.tensor([[-125.0, 125.0, 0]]))

    assert balance_loss(one) == 0
    assert_close(
        balance_loss(torch.stack([one[0], other[0]])).item(), -math.log(2)
    )
    # Three classes, one of which nothing in the batch answers.
    assert_close(balance_loss(half).item(), -math.log(2))
    assert_close(alignment_loss(half).item(), math.log(2))

    patches = torch.tensor([[500.0], [-500.0]])
    value, (gradient,) = with_gradients(patch_generator_loss, patches)
    assert value == 250
    assert_close(gradient, torch.tensor([[0.0], [-0.5]]))
    value, gradients = with_gradients(
        patch_discriminator_loss, patches, patches
    )
    assert value == 250
    assert_close(gradients[0], torch.tensor([[0.25], [0.0]]))
    assert_close(gradients[1], torch.tensor([[0.0], [-0.25]]))


def test_the_plain_forms_are_not_finite_there():
    """What the test above is about does happen."""
    made = extremes(500.0)

    def divergence(preds_T):
        p = preds_T.softmax(dim=1)
        log_q = made['zero'].log_softmax(dim=1)
        return kl_div(log_q, p, reduction='batchmean')

    def balance(preds_T):
        p = preds_T.softmax(dim=1).mean(dim=0)
        return (p * p.log()).sum()

    _, (gradient,) = with_gradients(divergence, made['one_class'])
    assert gradient.isnan().any()
    assert balance(made['one_class']).isnan()


def test_a_broken_network_is_seen():
    """NaN logits give a NaN loss, so that the hook can name the player."""
    for loss, count in ALL.values():
        for broken in range(count):
            inputs = [torch.zeros(2, 3) for _ in range(count)]
            inputs[broken][1, 2] = torch.nan
            assert loss(*inputs).isnan()


# ------------------------------------------------------- dtypes and batches


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_inputs_and_autocast(case, dtype):
    """Computed in float32, with gradients of the inputs' dtype."""
    loss, cases = case
    for inputs in cases:
        rough = [x.detach().to(dtype) for x in inputs]
        value, gradients = with_gradients(loss, *(x.float() for x in rough))
        with torch.autocast('cpu', dtype):
            under = with_gradients(loss, *rough)
            assert_close(loss(*(x.float() for x in rough)), value)
        for found in (with_gradients(loss, *rough), under):
            assert found[0].dtype == torch.float32
            assert_close(found[0], value, rtol=0, atol=0)
            expected = [x.to(dtype) for x in gradients]
            assert_close(list(found[1]), expected, rtol=0, atol=0)


def test_dtypes_of_the_values(case):
    loss, (inputs, _) = case
    assert loss(*inputs).dtype == torch.float64
    value = loss(*(x.float() for x in inputs))
    assert value.dtype == torch.float32
    assert_close(value.double(), loss(*inputs), rtol=2e-5, atol=0)


@pytest.mark.parametrize('shape', [(0, 3), (0, 3, 2, 2)])
def test_empty_batch_is_a_zero_attached_to_the_graph(case, shape):
    loss, (inputs, _) = case
    empty = [torch.zeros(shape, dtype=torch.float16) for _ in inputs]
    value, gradients = with_gradients(loss, *empty)
    assert value == 0
    assert value.dtype == torch.float32
    assert all(gradient.shape == shape for gradient in gradients)


def test_one_side_of_the_discriminator_is_empty():
    some, none = torch.zeros(2, 1, 2, 2), torch.zeros(0, 1, 2, 2)
    for reduction, count in (('mean', 1), ('patch_sum', 4)):
        value, (gradient, _) = with_gradients(
            partial(patch_discriminator_loss, reduction=reduction), some, none
        )
        assert_close(value.item(), count * math.log(2) / 2)
        assert_close(gradient, torch.full((2, 1, 2, 2), count / 32))
        value, gradients = with_gradients(
            partial(patch_discriminator_loss, reduction=reduction), none, some
        )
        assert value > 0
        assert (gradients[1] < 0).all()


def test_batch_of_one_is_its_own_mean(case):
    loss, (inputs, _) = case
    one = [x[:1] for x in inputs]
    value, gradients = with_gradients(loss, *one)
    twice, of_twice = with_gradients(loss, *(x.repeat(2, 1) for x in one))
    assert_close(value, twice)
    for single, double in zip(gradients, of_twice, strict=True):
        assert_close(single, double.sum(dim=0, keepdim=True))


def test_inputs_are_left_as_they_are(case):
    loss, cases = case
    for inputs in cases:
        before = [x.detach().clone() for x in inputs]
        loss(*inputs).backward()
        assert_close([x.detach() for x in inputs], before, rtol=0, atol=0)


def test_channels_last_maps(case):
    loss, (_, inputs) = case
    last = [x.detach().to(memory_format=torch.channels_last) for x in inputs]
    assert_close(with_gradients(loss, *last), with_gradients(loss, *inputs))


# ---------------------------------------------------------- what it is for


def test_descent_makes_what_each_term_asks_for(seed):
    start = torch.randn(12, 4)

    def descended(loss):
        logits = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.1)
        losses = []
        for _ in range(100):
            value = loss(logits)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        assert losses[-1] < losses[0]
        return logits.detach().softmax(dim=1)

    sure = descended(alignment_loss)
    assert sure.amax(dim=1).min() > 0.99
    balanced = descended(balance_loss)
    assert_close(
        balanced.mean(dim=0), torch.full((4,), 0.25), atol=1e-2, rtol=0
    )
    both = descended(lambda x: alignment_loss(x) + 10 * balance_loss(x))
    assert both.amax(dim=1).min() > 0.9
    assert_close(both.mean(dim=0), torch.full((4,), 0.25), atol=5e-2, rtol=0)


# ------------------------------------------------------------------ errors


def test_wrong_inputs_are_named():
    logits = torch.zeros(2, 3)
    for loss in (alignment_loss, balance_loss):
        with pytest.raises(
            ValueError, match=r'preds_T must be logits.*\(2,\)'
        ):
            loss(torch.zeros(2))
        with pytest.raises(ValueError, match=r'preds_T must be logits.*int64'):
            loss(logits.long())
        with pytest.raises(ValueError, match=r'must be logits.*\(2, 0\)'):
            loss(torch.zeros(2, 0))
        with pytest.raises(ValueError, match=r'must be a tensor.*tuple'):
            loss((logits,))
    with pytest.raises(ValueError, match=r'same shape.*\(2, 3\) and \(2, 4\)'):
        adversarial_loss(logits, torch.zeros(2, 4))
    with pytest.raises(ValueError, match='preds_S must be logits'):
        adversarial_loss(logits.bool(), logits)
    with pytest.raises(ValueError, match='real must be the discriminator'):
        patch_discriminator_loss(logits, logits.long())
    with pytest.raises(ValueError, match=r'fake must be .* shape \(\)'):
        patch_generator_loss(torch.tensor(0.0))
    with pytest.raises(ValueError, match=r'fake must be a tensor.*NoneType'):
        patch_generator_loss(None)


def test_wrong_options_are_named():
    logits = torch.zeros(2, 3)
    for call in (
        lambda: patch_generator_loss(logits, 'sum'),
        lambda: patch_discriminator_loss(logits, logits, reduction='sum'),
    ):
        with pytest.raises(ValueError, match=r"patch_sum.*but got 'sum'"):
            call()
    for base in (1, 0.5, -2, math.nan, True, '2'):
        with pytest.raises(ValueError, match=r'base must be .* > 1, but got'):
            balance_loss(logits, base)
