"""MosaicKD's players: the published run, whose step changes what, resuming."""

import copy
import io
import math

import pytest
import torch
from published_players import (
    MEAN,
    STD,
    Net,
    check_equal_nets,
    check_published_sequences,
    plain_epoch,
    published_net,
    published_nets_after,
    published_options,
)
from torch.nn import functional as F

from mmkd_plugin.engine.mosaic_players import (
    MosaicPlayers,
    class_entropy,
)
from mmkd_plugin.engine.network_state import share_buffers
from mmkd_plugin.utils.counter_rng import counter_rng


def build(**options):
    """Build small players for images of 8x8, in float64."""
    players = MosaicPlayers(
        **{
            'generator': dict(
                type='MosaicGenerator',
                latent_dim=5,
                base_channels=3,
                image_size=8,
            ),
            'discriminator': dict(
                type='PatchDiscriminator',
                base_channels=4,
                allow_larger_patch=True,
            ),
            'mean': MEAN,
            'std': STD,
            'pixel_max': 1,
            **options,
        }
    )
    return players.to(torch.double)


def models(**options):
    """Build teacher, student and real images."""
    teacher, student = (Net(**options).double() for _ in 'TS')
    teacher.eval()
    return teacher, student, torch.randn(6, 3, 8, 8, dtype=torch.double)


def snapshot(net):
    return copy.deepcopy(net.state_dict())


def changed(net, before):
    """Get the names of the weights and statistics that are not as before."""
    return {k for k, v in net.state_dict().items() if not v.equal(before[k])}


def statistics(net):
    return {
        name
        for name in net.state_dict()
        if 'running' in name or 'num_batches' in name
    }


def weights(net):
    return net.state_dict().keys() - statistics(net)


def copied(state):
    """Send a state through a file, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_published_epoch(golden):
    (case,) = golden('mosaic_trajectory')
    players = build(
        **published_options(case), schedule_length=int(case['T_max'])
    )
    teacher = published_net(case, 'T_before__').eval()
    before = snapshot(teacher)
    student = published_net(case, 'S_before__')
    noted = list(plain_epoch(case, players, teacher, student))
    check_published_sequences(case, noted)
    nets = dict(
        generator=players.generator,
        discriminator=players.discriminator,
        student=student,
    )
    check_equal_nets(nets, published_nets_after(case))
    assert not changed(teacher, before)
    # The passes that moved statistics: all of them, in all three players.
    assert players.generator.layers[0].num_batches_tracked == 3 * 6
    assert players.discriminator.layers[3].num_batches_tracked == 3 * 3
    assert student.bn1.num_batches_tracked == 3 * 6


@pytest.mark.parametrize('compat', [None, 'official'])
def test_each_step_changes_only_its_player(compat, seed, monkeypatch):
    players = build(compat=compat)
    teacher, student, real = models()
    nets = dict(
        generator=players.generator,
        discriminator=players.discriminator,
        teacher=teacher,
        student=student,
    )
    found = {}

    def watch(name):
        step = getattr(players, f'_step_{name}')

        def watched(*args):
            before = {key: snapshot(net) for key, net in nets.items()}
            terms = step(*args)
            found[name] = {
                key: changed(net, before[key]) for key, net in nets.items()
            }
            return terms

        monkeypatch.setattr(players, f'_step_{name}', watched)

    watch('discriminator')
    watch('generator')
    before = snapshot(players.generator)
    players.update(teacher, student, real)

    discriminator, generator = players.discriminator, players.generator
    assert found['discriminator'] == dict(
        generator=set(),
        discriminator=set(discriminator.state_dict()),
        teacher=set(),
        student=set(),
    )
    official = compat == 'official'
    assert found['generator'] == dict(
        # Biases before a normalisation get rounding errors at most.
        generator=found['generator']['generator'],
        discriminator=statistics(discriminator) if official else set(),
        teacher=set(),
        student=statistics(student) if official else set(),
    )
    moved = found['generator']['generator']
    assert weights(generator) - {'project.bias'} <= moved
    assert moved <= weights(generator)
    assert changed(generator, before) >= statistics(generator)


def test_nothing_is_left_behind(seed):
    players = build()
    teacher, student, real = models()
    # What a run may have: gradients of its own, frozen and eval-mode parts.
    teacher.requires_grad_(False)
    student.conv1.weight.requires_grad_(False)
    student.bn1.eval()
    student.fc(torch.ones(6).double()).sum().backward()
    own = student.fc.weight.grad.clone()
    modes = [module.training for module in student.modules()]
    before = snapshot(student)
    players.update(teacher, student, real)
    for net in (players.generator, players.discriminator, teacher):
        assert all(p.grad is None for p in net.parameters())
    assert student.fc.weight.grad.equal(own)
    assert student.conv2.weight.grad is None
    assert not any(p.requires_grad for p in teacher.parameters())
    frozen = [n for n, p in student.named_parameters() if not p.requires_grad]
    assert frozen == ['conv1.weight']
    assert [module.training for module in student.modules()] == modes
    assert not changed(student, before)
    assert all(m.track_running_stats for m in (student.bn1, student.bn2))


@pytest.mark.parametrize('options', [{}, dict(student_mode='train')])
def test_all_is_restored_after_an_exception(options, seed):
    class Fails(Net):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError('out of order')

    players = build(**options)
    teacher, _, real = models()
    student = Fails().double()
    student.bn2.eval()
    before = snapshot(student)
    with pytest.raises(RuntimeError, match='out of order'):
        players.update(teacher, student, real)
    for net in (players.generator, players.discriminator, teacher, student):
        assert all(p.requires_grad for p in net.parameters())
        assert all(p.grad is None for p in net.parameters())
    assert student.training and not student.bn2.training
    assert not teacher.training
    norms = (teacher.bn1, student.bn1, players.discriminator.layers[3])
    assert all(norm.track_running_stats for norm in norms)
    assert not changed(student, before)


def test_gradients_pile_up_officially(seed):
    players = build(compat='official')
    teacher, student, real = models()
    z = torch.randn(6, 5, dtype=torch.double)
    players.update(teacher, student, real, z=z)
    once = teacher.fc.weight.grad.clone()
    assert once.abs().sum() > 0
    assert student.fc.weight.grad.abs().sum() > 0
    assert players.discriminator.layers[0].weight.grad.abs().sum() > 0
    players.update(teacher, student, real, z=z)
    assert not teacher.fc.weight.grad.equal(once)


def first_update(size=8, models_seed=4, **options):
    """Make an update whose discriminator stands still."""
    torch.manual_seed(models_seed)
    teacher, student, _ = models()
    real = torch.randn(6, 3, size, size, dtype=torch.double)
    players = build(
        generator=dict(
            type='MosaicGenerator',
            latent_dim=5,
            base_channels=2,
            image_size=size,
        ),
        discriminator_optimizer=dict(type='SGD', lr=0.0),
        **options,
    )
    before = copy.deepcopy(players)
    return players.update(teacher, student, real), before, teacher, student


@pytest.mark.parametrize('compat', [None, 'official'])
def test_terms(compat, seed):
    terms, before, teacher, student = first_update(
        compat=compat,
        adv_weight=2.0,
        align_weight=3.0,
        local_weight=5.0,
        balance_weight=7.0,
        seed=8,
    )
    rng = counter_rng(8, 0, 0, stream=2)
    noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
    z = torch.randn(6, 5, generator=noise, dtype=torch.double)
    images = before.normalise(before.generator.train()(z))
    teacher.eval()
    student.train(compat == 'official')
    log_p = teacher(images).log_softmax(1)
    log_q = student(images).log_softmax(1)
    p, mean = log_p.exp(), log_p.exp().mean(0)
    judged = F.softplus(-before.discriminator(images)).flatten(1)
    expected = dict(
        loss_adv=(p * (log_q - log_p)).sum(1).mean(),
        loss_align=-(p * log_p).sum(1).mean(),
        loss_local=judged.sum(1).mean() if compat else judged.mean(),
        loss_balance=(mean * (mean.log2() if compat else mean.log())).sum(),
    )
    shares = zip((2, 3, 5, 7), expected.values(), strict=True)
    expected['loss_g'] = sum(weight * term for weight, term in shares)
    expected['confidence'] = p.amax(1).mean()
    shares = p.argmax(1).bincount(minlength=6) / 6
    shares = shares[shares > 0]
    expected['class_entropy'] = -(shares * shares.log()).sum() / math.log(6)
    assert terms.keys() == {'loss_d', *expected}
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item()), name


def test_default_is_the_official_balance_of_terms(seed):
    # At the published 8x8 patches. The weights of another student mode or of
    # the discriminator's loss are not what is compared here.
    official = first_update(
        size=32,
        compat='official',
        student_mode='eval',
    )[0]
    mended = first_update(size=32)[0]
    assert mended['loss_g'].item() == pytest.approx(official['loss_g'].item())
    ratio = official['loss_local'] / mended['loss_local']
    assert ratio.item() == pytest.approx(64)
    ratio = official['loss_d'] / mended['loss_d']
    assert ratio.item() == pytest.approx(64)
    ratio = official['loss_balance'] / mended['loss_balance']
    assert ratio.item() == pytest.approx(1 / math.log(2))


def test_weighed_discriminator(seed):
    options = dict(local_weight=5.0, weigh_discriminator=True)
    weighed = first_update(**options)[0]['loss_d']
    plain = first_update(local_weight=5.0)[0]['loss_d']
    assert weighed.item() == pytest.approx(5 * plain.item())


def test_student_mode_keeps_the_statistics(seed):
    found = {}
    for mode in ('eval', 'train'):
        terms, _, _, student = first_update(student_mode=mode)
        found[mode] = terms['loss_adv'].item()
        assert student.bn1.num_batches_tracked == 0
    by_compat = first_update(compat='official')[0]['loss_adv'].item()
    assert found['train'] == pytest.approx(by_compat)
    assert found['train'] != pytest.approx(found['eval'], rel=1e-2)


def test_sampling(seed):
    z = torch.randn(4, 5, dtype=torch.double)
    for mode in ('eval', 'train'):
        players = build(sample_mode=mode)
        before = snapshot(players.generator)
        images = players.sample(z=z)
        assert not images.requires_grad
        assert images.min() > 0 and images.max() < 1
        moved = changed(players.generator, before)
        assert moved == (
            statistics(players.generator) if mode == 'train' else set()
        )
        alone = players.sample(z=z[:2])
        assert torch.allclose(alone, images[:2]) == (mode == 'eval')
        assert players.generator.training
    # Drawn: from the seed, in order, whatever else is drawn.
    first, same, other = (build(seed=s, sample_mode='eval') for s in (1, 1, 2))
    for players in (same, other):
        players.generator.load_state_dict(first.generator.state_dict())
    one, two = first.sample(3), first.sample(3)
    torch.rand(7)
    assert same.sample(3).equal(one) and same.sample(3).equal(two)
    assert not one.equal(two)
    assert not other.sample(3).equal(one)


def test_normalisation():
    images = torch.rand(2, 3, 4, 4)
    expected = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    torch.testing.assert_close(build().normalise(images), expected)
    bytes_ = build(
        mean=[255 * x for x in MEAN],
        std=[255 * x for x in STD],
        pixel_max=255,
    )
    torch.testing.assert_close(bytes_.normalise(images), expected)


@pytest.mark.parametrize('compat', [None, 'official'])
def test_resumed_run_is_the_same_bit_for_bit(compat, seed):
    options = dict(compat=compat, schedule_length=6)

    def train(players, student, sgd, batches):
        terms = []
        for batch in batches:
            terms.append(players.update(teacher, student, batch))
            images = players.normalise(players.sample(4))
            loss = (student(images) - teacher(images)).square().mean()
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        return terms

    def optimizer(net):
        return torch.optim.SGD(net.parameters(), lr=0.1)

    teacher, student, _ = models()
    real = torch.randn(5, 6, 3, 8, 8, dtype=torch.double)
    players = build(**options)
    train(players, student, optimizer(student), real[:2])
    state = copied(players.state_dict())
    weights_then = copied(student.state_dict())
    terms = train(players, student, optimizer(student), real[2:])

    resumed = build(seed=99, **options)
    resumed.sample(5)
    resumed.load_state_dict(state)
    again = Net().double()
    again.load_state_dict(weights_then)
    assert train(resumed, again, optimizer(again), real[2:]) == terms
    assert not changed(again, student.state_dict())
    for name, part in players.state_dict().items():
        other = resumed.state_dict()[name]
        if name in ('generator', 'discriminator'):
            assert all(value.equal(other[key]) for key, value in part.items())
        elif name == 'noise':
            assert part == other == dict(seed=0, draws=10)
        elif name == 'class_counts':
            assert part.equal(other) and part.sum() == 30
        elif name.endswith('optimizer'):
            assert part['param_groups'] == other['param_groups']
            assert part['state'] and str(part) == str(other)
        else:
            assert part == other and part['last_step'] == 5


@pytest.mark.parametrize(
    ('before', 'now'), [('float16', None), (None, 'float16')]
)
def test_mixed_precision_begins_or_ends(before, now, seed):
    """With the resumed run."""
    options = dict(schedule_length=3)
    players = build(amp_dtype=before, **options)
    for scaler in players.scalers.values():
        if before:
            scaler.load_state_dict(dict(scaler.state_dict(), scale=8.0))
    players.sample(2)
    state = copied(players.state_dict())
    assert ('generator_scaler' in state) == (before is not None)
    resumed = build(amp_dtype=now, **options)
    fresh = copied(resumed.state_dict())
    resumed.load_state_dict(state)
    found = resumed.state_dict()
    for name in ('generator', 'discriminator'):
        assert not changed(getattr(resumed, name), state[name])
        assert (f'{name}_scaler' in found) == (now is not None)
        # A new one.
        assert found.get(f'{name}_scaler') == fresh.get(f'{name}_scaler')
    assert found['noise'] == state['noise'] == dict(seed=0, draws=1)
    # Where there is one on both sides, it goes on.
    again = build(amp_dtype=before, **options)
    again.load_state_dict(state)
    if before:
        assert again.scalers['generator'].get_scale() == 8
    # Nothing else may be missing.
    del state['generator_schedule']
    with pytest.raises(ValueError, match=r"lacks \['generator_schedule'\]"):
        resumed.load_state_dict(state)


def test_schedule_stays_at_zero(seed):
    players = build(schedule_length=3)
    teacher, student, real = models()
    rates = []
    for _ in range(5):
        rates.append(
            [
                optimizer.param_groups[0]['lr']
                for optimizer in players.optimizers.values()
            ]
        )
        players.update(teacher, student, real)
    expected = [1e-3, 0.75e-3, 0.25e-3, 0, 0]
    assert rates == [pytest.approx([x, x], abs=1e-15) for x in expected]


def test_moving_goes_on(seed):
    players = build().to(torch.float)
    teacher, student, real = models()
    players.update(teacher.float(), student.float(), real.float())
    players.to(torch.double)
    for optimizer in players.optimizers.values():
        for state in optimizer.state.values():
            assert state['exp_avg'].dtype == torch.double
    terms = players.update(teacher.double(), student.double(), real)
    assert all(term.dtype == torch.double for term in terms.values())


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
@pytest.mark.parametrize('compat', [None, 'official'])
def test_large_logit_gaps(compat, dtype, seed):
    players = build(compat=compat).to(dtype)
    teacher, student, real = (part.to(dtype) for part in models())
    z = torch.randn(6, 5, dtype=dtype)
    images = players.normalise(players.sample(z=z))
    with torch.no_grad():
        teacher.fc.weight.normal_()
        for net in (teacher, student):
            logits = net(images) - net.fc.bias
            gaps = logits.amax(1) - logits.amin(1)
            net.fc.weight.mul_(500 / gaps.min())
    logits = teacher(images)
    assert (logits.amax(1) - logits.amin(1) >= 490).all()
    nets = dict(
        generator=players.generator,
        discriminator=players.discriminator,
    )
    finite = {}

    # Before they are cleared.
    for name, net in nets.items():

        def look(optimizer, args, kwargs, name=name, net=net):
            grads = [p.grad for p in net.parameters()]
            finite[name] = all(g.isfinite().all() for g in grads)
            assert sum(g.abs().sum() for g in grads) > 0

        players.optimizers[name].register_step_pre_hook(look)
    terms = players.update(teacher, student, real, z=z)
    assert finite == dict(generator=True, discriminator=True)
    assert all(term.isfinite() for term in terms.values())
    for net in (teacher, student, *nets.values()):
        for parameter in net.parameters():
            assert parameter.isfinite().all()
            if compat == 'official':
                assert parameter.grad.isfinite().all()


def test_segmentation(seed):
    players = build()
    teacher, student, real = models(pixels=True)
    student.eval()
    z = torch.randn(6, 5, dtype=torch.double)
    images = players.normalise(copy.deepcopy(players.generator)(z))
    before = snapshot(players.generator)
    # Each pixel is a sample.
    log_p, log_q = (
        net(images).log_softmax(1).movedim(1, 3).reshape(6 * 4 * 4, 6)
        for net in (teacher, student)
    )
    p, mean = log_p.exp(), log_p.exp().mean(0)
    expected = dict(
        loss_adv=(p * (log_q - log_p)).sum(1).mean(),
        loss_align=-(p * log_p).sum(1).mean(),
        loss_balance=(mean * mean.log()).sum(),
    )
    terms = players.update(teacher, student, real, z=z)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item()), name
    assert 'layers.9.weight' in changed(players.generator, before)


def test_autocast(seed):
    players = build().to(torch.float)
    teacher, student, real = (part.float() for part in models())
    again = copy.deepcopy(players)
    z = torch.randn(6, 5)
    terms = again.update(teacher, student, real, z=z)
    with torch.autocast('cpu', torch.bfloat16):
        half = players.update(teacher, student, real, z=z)
    for name, term in half.items():
        assert term.dtype == torch.float
        expected = pytest.approx(terms[name].item(), rel=0.05, abs=0.02)
        assert term.item() == expected, name


def test_weights_of_zero(seed):
    players = build(
        generator_optimizer=dict(type='SGD', lr=1.0),
        adv_weight=0.0,
        align_weight=0.0,
        local_weight=0.0,
        balance_weight=0.0,
    )
    before = snapshot(players.generator)
    players.update(*models())
    assert not changed(players.generator, before) & weights(players.generator)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(compat='oficial'), "compat must be one of .*'oficial'"),
        (dict(adv_weight=-1.0), 'adv_weight must be .* got -1.0'),
        (dict(balance_base=1.0), 'balance_base must be'),
        (dict(patch_reduction='sum'), "patch_reduction .* got 'sum'"),
        (dict(student_mode='test'), "student_mode .* got 'test'"),
        (dict(sample_mode='test'), "sample_mode .* got 'test'"),
        (dict(isolate_players=1), 'isolate_players must be True or False'),
        (dict(weigh_discriminator=1), 'weigh_discriminator must be True'),
        (dict(schedule_length=0), 'schedule_length must be'),
        (dict(seed=1.5), 'seed must be an integer'),
        (dict(mean=(0.5,)), r'mean must have .* the 3 channels .*\[0.5\]'),
        (dict(std=(0.5, 0.0, 0.5)), 'std must be .* got 0.0'),
        (dict(pixel_max=0), 'pixel_max must be'),
        (dict(generator=dict(type='Mosaic')), "generator: there is no 'Mos"),
        (
            dict(generator_optimizer=dict(type='Adam', rl=1.0)),
            "generator_optimizer: Adam has no option 'rl'; known: ams",
        ),
        (
            dict(discriminator=dict(type='PatchDiscriminator')),
            'got 10 for images of 8x8',
        ),
        (
            dict(
                discriminator=dict(
                    type='PatchDiscriminator', in_channels=1, patch_size=4
                )
            ),
            'images of 3 channels, but the discriminator takes 1',
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_wrong_input(seed):
    players = build()
    teacher, student, real = models()
    z = torch.randn(6, 5, dtype=torch.double)
    with pytest.raises(ValueError, match='but got both'):
        players.update(teacher, student, real, count=6, z=z)
    with pytest.raises(ValueError, match='but got neither'):
        players.sample()
    before = snapshot(players.discriminator)
    with pytest.raises(ValueError, match=r'\(N, 3, 8, 8\), but got .*9, 8'):
        players.update(teacher, student, real.new_zeros(6, 3, 9, 8))
    with pytest.raises(ValueError, match=r'normalised .*uint8'):
        players.update(teacher, student, real.to(torch.uint8))
    assert not changed(players.discriminator, before)


def test_wrong_state(seed):
    players = build()
    before = snapshot(players.generator)
    state = build().state_dict()
    short = {k: v for k, v in state.items() if k != 'noise'}
    with pytest.raises(ValueError, match=r"lacks \['noise'\]"):
        players.load_state_dict(short)
    more = build(schedule_length=3).state_dict()
    with pytest.raises(ValueError, match="has 'generator_schedule'"):
        players.load_state_dict(more)
    assert not changed(players.generator, before)


def test_initialisation_of_a_config():
    constant = dict(type='Constant', val=0.25, layer='Linear')
    players = build(
        generator=dict(
            type='MosaicGenerator',
            latent_dim=5,
            base_channels=2,
            image_size=8,
            init_cfg=constant,
        )
    )
    assert (players.generator.project.weight == 0.25).all()


# Of the classes --------------------------------------------------------

# That of three in four.
ENTROPY = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)


@pytest.mark.parametrize(
    ('counts', 'expected'),
    [
        ([1] * 16 + [0] * 984, 1.0),
        ([1, 1, 0], 1.0),
        ([5, 5, 5], 1.0),
        ([5, 0], 0.0),
        ([5], 0.0),
        ([1, 0, 0], 0.0),
        ([0, 0, 0], 0.0),
        ([3, 1], ENTROPY / math.log(2)),
        # Of four images, none could have more than four classes.
        ([3, 1] + [0] * 98, ENTROPY / math.log(4)),
        ([300, 100, 0], ENTROPY / math.log(3)),
    ],
)
def test_class_entropy(counts, expected):
    found = class_entropy(torch.tensor(counts))
    assert found.dtype == torch.float32 and found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-5)
    # A log must not show -0.
    assert math.copysign(1, found.item()) == 1


def test_buffers_of_one_process_stay():
    players = build()
    before = snapshot(players.discriminator)
    share_buffers(players.discriminator)
    assert not changed(players.discriminator, before)
