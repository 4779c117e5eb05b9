"""MosaicKD's hook: what the student gets, options, pictures, faults."""

import copy
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, MODELS
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image
from published_players import Net
from toy_runs import (
    PREPROCESSOR,
    build_runner,
    classifier,
    distillation,
    double_players,
    leaves,
    loader,
    make_dataset,
    mosaic_hook,
    net_distillation,
    save_teacher,
)

import mmkd_plugin.engine.hooks.mosaic_generator_hook as m
import mmkd_plugin.engine.mosaic_picture as pictures
from mmkd_plugin.engine.generator_export import load_generator
from mmkd_plugin.engine.hooks import MosaicGeneratorHook
from mmkd_plugin.engine.mosaic_players import MosaicPlayers
from mmkd_plugin.models import SingleTeacherDistill
from mmkd_plugin.models.generators import MosaicGenerator, PatchDiscriminator
from mmkd_plugin.utils.checkpoint import read_checkpoint
from mmkd_plugin.utils.counter_rng import counter_rng

CROP = [dict(type='BatchRandomCrop', crop_size=8, padding=1)]
TERMS = {
    'loss_d',
    'loss_g',
    'loss_adv',
    'loss_align',
    'loss_local',
    'loss_balance',
    'confidence',
    'class_entropy',
}


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path / 'teacher.pth')


@pytest.fixture
def spy(monkeypatch):
    """What players and model are called with, one entry a call."""
    calls = dict(updates=[], terms=[], rates=[], samples=[], batches=[])
    update, sample = MosaicPlayers.update, MosaicPlayers.sample
    loss = SingleTeacherDistill.loss

    def updated(self, teacher, student, real, **options):
        rates = [
            optimizer.param_groups[0]['lr']
            for optimizer in self.optimizers.values()
        ]
        terms = update(self, teacher, student, real, **options)
        # The next step of the student.
        at = len(calls['batches'])
        calls['updates'].append((at, real.clone(), options['count']))
        calls['rates'].append(rates)
        calls['terms'].append({k: v.item() for k, v in terms.items()})
        return terms

    def sampled(self, count=None, **options):
        images = sample(self, count, **options)
        if count is not None:
            calls['samples'].append(self.normalise(images))
        return images

    def lost(self, inputs, data_samples):
        calls['batches'].append((inputs.clone(), data_samples))
        return loss(self, inputs, data_samples)

    monkeypatch.setattr(MosaicPlayers, 'update', updated)
    monkeypatch.setattr(MosaicPlayers, 'sample', sampled)
    monkeypatch.setattr(SingleTeacherDistill, 'loss', lost)
    return calls


def run(folder, teacher, hook, num=10, hooks=(), epochs=2, **kwargs):
    """Train on ten images, in three batches an epoch."""
    model = kwargs.pop('model', None) or distillation(
        teacher, data_preprocessor=dict(PREPROCESSOR, augments=CROP)
    )
    runner = build_runner(
        folder,
        model,
        kwargs.pop('train', None) or loader(make_dataset(num)),
        [hook, *hooks],
        epochs=epochs,
        **kwargs,
    )
    runner.train()
    return runner


def normalised(indices, dataset=None):
    batch = (dataset or make_dataset(10)).__getitems__(indices)
    return (batch['inputs'].float() - 120.5) / 60


def test_registered():
    assert HOOKS.get('MosaicGeneratorHook') is MosaicGeneratorHook


# What the student gets ------------------------------------------------


@pytest.mark.parametrize('size', [None, 3])
@pytest.mark.parametrize('images', ['both', 'synthetic'])
def test_batches(images, size, teacher, spy, tmp_path):
    options = dict(student_steps=4, student_images=images, batch_size=size)
    run(tmp_path, teacher, mosaic_hook(**options))
    # Four images, four, two, and again.
    orders = [[*range(4)], [*range(4, 8)], [8, 9]] * 2
    assert len(spy['batches']) == len(spy['samples']) == 6
    for (inputs, samples), made, order in zip(
        spy['batches'], spy['samples'], orders, strict=True
    ):
        count = size or len(order)
        assert len(made) == count
        assert inputs[:count].equal(made)
        ids = [-1] * count
        if images == 'both':
            ids += order
            real = normalised(order)
            # Augmented: moved by a pixel at most.
            assert inputs[count:].shape == real.shape
            assert not inputs[count:].equal(real)
        assert len(inputs) == len(ids)
        assert samples.sample_idx.tolist() == ids
        assert samples.gt_label is None
    # The players: every fourth time, with real images as they are.
    assert [at for at, _, _ in spy['updates']] == [0, 4]
    for at, real, count in spy['updates']:
        assert real.equal(normalised(orders[at]))
        assert count == (size or len(orders[at]))


@pytest.mark.parametrize('other', [False, True])
def test_other_statistics_of_real_images(other, teacher, spy, tmp_path):
    statistics = dict(mean=[100, 110.0, 120.0], std=[40.0, 50, 60.0])
    hook = mosaic_hook(
        student_steps=4, real_statistics=statistics if other else None
    )
    model = distillation(teacher, data_preprocessor=dict(PREPROCESSOR))
    run(tmp_path, teacher, hook, model=model)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in statistics.values()
    )
    orders = [[*range(4)], [*range(4, 8)], [8, 9]] * 2
    for (inputs, _), made, order in zip(
        spy['batches'], spy['samples'], orders, strict=True
    ):
        # Those of the synthetic images are the teacher's.
        assert inputs[: len(made)].equal(made)
        pixels = make_dataset(10).__getitems__(order)['inputs'].float()
        expected = (pixels - mean) / std if other else normalised(order)
        torch.testing.assert_close(
            inputs[len(made) :], expected, rtol=1e-5, atol=1e-5
        )
    # And so are those of the discriminator.
    for at, real, _ in spy['updates']:
        assert real.equal(normalised(orders[at]))


def test_synthetic_images_of_a_step_are_new(teacher, spy, tmp_path):
    run(tmp_path, teacher, mosaic_hook(student_steps=9))
    assert len(spy['updates']) == 1
    assert not spy['samples'][0].equal(spy['samples'][1])


@pytest.mark.parametrize('anneal', [True, False])
def test_learning_rates(anneal, teacher, spy, tmp_path):
    hook = mosaic_hook(student_steps=2, anneal=anneal)
    run(tmp_path, teacher, hook)
    factors = [1, 0.75, 0.25] if anneal else [1, 1, 1]
    expected = [pytest.approx([1e-3 * x] * 2, abs=1e-12) for x in factors]
    assert spy['rates'] == expected


def test_real_images_of_another_loader(teacher, spy, tmp_path):
    others = make_dataset(5, seed=9)
    hook = mosaic_hook(
        student_steps=1, batch_size=2, real_dataloader=loader(others)
    )
    run(tmp_path, teacher, hook)
    orders = [[0, 1, 2, 3], [4]] * 3
    for (_, real, count), order in zip(spy['updates'], orders, strict=True):
        assert real.equal(normalised(order, others))
        assert count == 2


def test_order_of_another_loader_is_not_the_students(teacher, spy, tmp_path):
    images = make_dataset(10)
    hook = mosaic_hook(
        student_steps=1, real_dataloader=loader(images, shuffle=True)
    )
    train = loader(images, shuffle=True)
    run(tmp_path, teacher, hook, train=train)
    students = [samples.sample_idx for _, samples in spy['batches']]
    first = torch.cat(students[:3])
    first = normalised(first[first >= 0].tolist())
    real = torch.cat([real for _, real, _ in spy['updates'][:3]])
    assert not real.equal(first)

    def key(pixels):
        return sorted(pixels.flatten(1).sum(1).tolist())

    assert key(real) == pytest.approx(key(first))


def test_the_run_is_not_disturbed(teacher, tmp_path):
    """Its random numbers and the student's weights are those without."""

    class Notes(Hook):
        priority = 'VERY_LOW'

        def __init__(self):
            self.found = []

        def before_train_epoch(self, runner):
            weights = runner.model.student.state_dict()
            self.found.append(leaves(copy.deepcopy(weights)))

        def after_train_iter(self, runner, *args, **kwargs):
            self.found.append(torch.get_rng_state().tolist())
            self.found.append(np.random.get_state()[1].tolist())

    with_hook, without = Notes(), Notes()
    run(tmp_path, teacher, with_hook, epochs=1)
    run(tmp_path, teacher, mosaic_hook(), epochs=1, hooks=[without])
    assert len(with_hook.found) == 1 + 2 * 3
    assert with_hook.found == without.found


@pytest.mark.parametrize('compat', [None, 'official'])
def test_accumulated_gradients(compat, tmp_path, seed):
    """Those of the generator's step are not among the student's."""
    teacher, student = (Net(classes=3).double() for _ in 'TS')
    teacher.fc.weight.data.mul_(20)
    again = copy.deepcopy(student)
    start = {}
    hook = MosaicGeneratorHook(
        **double_players(), student_steps=3, compat=compat, anneal=False
    )

    class Notes(Hook):
        def before_train_epoch(self, runner):
            start.setdefault('it', copy.deepcopy(hook.players))

    model = net_distillation(
        teacher,
        student,
        dict(type='KLDivergence'),
        type='DoublePreprocessor',
    )
    run(
        tmp_path,
        None,
        hook,
        num=8,
        hooks=[Notes()],
        epochs=3,
        model=MODELS.build(model),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.5), accumulative_counts=2
        ),
    )

    players = start['it']
    weights = [*again.parameters()]
    sums = [torch.zeros_like(p) for p in weights]
    for step in range(6):
        order = [*range(4 * (step % 2), 4 * (step % 2) + 4)]
        pixels = make_dataset(8).__getitems__(order)['inputs']
        real = ((pixels.float() - 120.5) / 60).double()
        # In the middle of two steps, too.
        if step % 3 == 0:
            players.update(teacher, again, real)
            again.zero_grad()
        fake = players.normalise(players.sample(4))
        images = torch.cat([fake, real])
        log_p = teacher(images).detach().log_softmax(1)
        log_q = again(images).log_softmax(1)
        loss = (log_p.exp() * (log_p - log_q)).sum(1).mean()
        grads = torch.autograd.grad(loss / 2, weights)
        for total, grad in zip(sums, grads, strict=True):
            total += grad
        if step % 2:
            with torch.no_grad():
                for weight, total in zip(weights, sums, strict=True):
                    weight -= 0.5 * total
                    total.zero_()
    for name, value in again.state_dict().items():
        torch.testing.assert_close(
            student.state_dict()[name], value, rtol=1e-9, atol=1e-12
        )


# Log and pictures ------------------------------------------------------


def test_log(teacher, spy, tmp_path):
    runner = run(tmp_path, teacher, mosaic_hook(student_steps=4))
    found = {
        name.removeprefix('train/mosaic.'): history.data[0].tolist()
        for name, history in runner.message_hub.log_scalars.items()
        if name.startswith('train/mosaic.')
    }
    assert found.keys() == TERMS
    first, second = spy['terms']
    assert first != second
    for name, values in found.items():
        # Once an iteration, as the losses.
        expected = [first[name]] * 4 + [second[name]] * 2
        assert values == pytest.approx(expected, rel=1e-6), name


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))


def test_pictures(teacher, tmp_path, monkeypatch):
    figures = []
    draw = pictures.mosaic_figure

    def drawn(synthetic, real, patch_size, title, **options):
        figures.append((synthetic, real, patch_size, title))
        return draw(synthetic, real, patch_size, title, **options)

    monkeypatch.setattr(pictures, 'mosaic_figure', drawn)
    old = tmp_path / 'mosaic' / 'latest.png'
    old.parent.mkdir()
    old.write_bytes(b'of another run')
    seen = []

    class Look(Hook):
        priority = 'VERY_LOW'

        def after_train_epoch(self, runner):
            seen.append(old.exists())

    runner = run(
        tmp_path,
        teacher,
        mosaic_hook(student_steps=2, picture_interval=2, num_pictures=2),
        hooks=[Look()],
        epochs=4,
        visualizer=dict(
            type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]
        ),
        val_dataloader=loader(make_dataset(4)),
        val_evaluator=dict(type='Accuracy'),
        val_cfg=dict(),
    )
    # The old one is gone until there is a new one.
    assert seen == [False, True, True, True]
    folder = tmp_path / runner.timestamp / 'vis_data' / 'vis_image'
    names = sorted(path.name for path in folder.iterdir())
    assert names == ['mosaic_0.png', 'mosaic_11.png', 'mosaic_5.png']
    assert [title for *_, title in figures] == [
        'before training',
        'epoch 2',
        'epoch 4',
    ]
    for file, name in (
        ('first.png', 'mosaic_0.png'),
        ('latest.png', 'mosaic_11.png'),
    ):
        written = pixels((tmp_path / 'mosaic' / file).read_bytes())
        shown = pixels((folder / name).read_bytes())
        assert np.array_equal(written, shown)
    # Of the same noise, so they can be compared; the generator has changed.
    synthetic = [[p.image for p in figure[0]] for figure in figures]
    assert not np.array_equal(synthetic[0], synthetic[-1])
    for made, real, patch_size, _ in figures:
        assert len(made) == len(real) == 2
        assert patch_size == 6
        assert {picked.label for picked in (*made, *real)} <= {'a', 'b', 'c'}
    # Real ones as they are, with the teacher's answers.
    images = make_dataset(10).images
    net = runner.model.teacher
    for picked, index in zip(figures[0][1], (0, 1), strict=True):
        assert np.array_equal(picked.image, images[index])
        log_p = net(normalised([index])).log_softmax(1)
        assert picked.label == 'abc'[log_p.argmax()]
        assert picked.uncertainty == pytest.approx(
            -log_p.max().item(), rel=1e-4, abs=1e-6
        )


@pytest.mark.parametrize('compat', [None, 'official'])
def test_pictures_change_nothing(compat, teacher, tmp_path):
    def train(folder, interval):
        hook = MosaicGeneratorHook(
            **{
                key: value
                for key, value in mosaic_hook(compat=compat).items()
                if key != 'type'
            },
            picture_interval=interval,
        )
        run(tmp_path / folder, teacher, hook, epochs=4)
        state = hook.players.state_dict()
        # They are read with the pictures.
        del state['class_counts']
        return leaves(state)

    assert train('one', 1) == train('two', 9)


def logged(runner, folder):
    (path,) = (folder / runner.timestamp).glob('*.log')
    return path.read_text()


def test_collapse(teacher, tmp_path):
    sure = torch.load(teacher)
    sure['head.fc.bias'] = torch.tensor([0.0, 1e4, 0.0])
    torch.save(sure, teacher)
    hook = mosaic_hook(collapse_threshold=0.25)
    runner = run(tmp_path, teacher, hook, log_level='WARNING')
    text = logged(runner, tmp_path)
    assert (
        'mode collapse: the classes of the synthetic images have 0 % of the '
        'highest entropy that 4 images can have, less than 25 %; the most '
        'frequent one is 1 (100 %). A higher balance_weight spreads them'
    ) in text
    # In the second epoch's update there are two.
    assert text.count('mode collapse') == 2
    assert text.count('entropy that 2 images can have') == 1
    runner = run(
        tmp_path / 'named',
        teacher,
        mosaic_hook(picture_interval=2),
        log_level='WARNING',
        val_dataloader=loader(make_dataset(4)),
        val_evaluator=dict(type='Accuracy'),
        val_cfg=dict(),
    )
    text = logged(runner, tmp_path / 'named')
    assert text.count('the most frequent one is b (100 %)') == 1


class Graded(Net):
    """A teacher that gives each image of a batch a class of its own."""

    def forward(self, *args, **kwargs):
        logits = super().forward(*args, **kwargs)
        return logits + 1e4 * torch.eye(*logits.shape).to(logits)


@pytest.mark.parametrize('even', [True, False])
def test_default_threshold_of_collapse(even, tmp_path, seed):
    # More classes than images: no batch can have all of them.
    kind = Graded if even else Net
    teacher, student = kind(classes=1000), Net(classes=1000)
    if not even:
        teacher.fc.bias.data[7] = 1e4
    loss = dict(type='KLDivergence')
    model = MODELS.build(net_distillation(teacher, student, loss))
    hook = mosaic_hook(student_steps=3)
    runner = run(tmp_path, None, hook, model=model, log_level='WARNING')
    text = logged(runner, tmp_path)
    assert ('mode collapse' in text) == (not even)
    if not even:
        assert 'have 0 % of the highest entropy that 4 images can' in text
        assert 'less than 50 %; the most frequent one is 7 (100 %)' in text


def test_networks_are_described(teacher, tmp_path):
    runner = run(tmp_path, teacher, mosaic_hook(), log_level='INFO')
    text = logged(runner, tmp_path)
    counts = [
        sum(p.numel() for p in MODELS.build(mosaic_hook()[name]).parameters())
        for name in ('generator', 'discriminator')
    ]
    assert (
        f'generator of {counts[0]:,} parameters, discriminator of '
        f'{counts[1]:,}; the patches that it judges (its receptive field) '
        f'have a side of 6 pixels'
    ) in text


# Logits of pixels, half precision --------------------------------------


def test_segmentation(tmp_path, monkeypatch, seed):
    figures = []

    def drawn(synthetic, real, *args, **options):
        figures.append((*synthetic, *real))
        return draw(synthetic, real, *args, **options)

    draw = pictures.mosaic_figure
    monkeypatch.setattr(pictures, 'mosaic_figure', drawn)
    teacher, student = (Net(classes=3, pixels=True).double() for _ in 'TS')
    teacher.fc.weight.data.mul_(20)
    hook = MosaicGeneratorHook(
        **double_players(),
        num_pictures=2,
        discriminator_optimizer=dict(type='SGD', lr=0.0),
    )
    start = {}

    class Notes(Hook):
        priority = 'HIGH'

        def before_train_iter(self, runner, batch_idx, data_batch):
            if runner.iter == 0:
                nets = hook.players, runner.model.student
                start['it'] = copy.deepcopy(nets)

    model = net_distillation(
        teacher, student, dict(type='L1Loss'), type='DoublePreprocessor'
    )
    runner = run(
        tmp_path, None, hook, hooks=[Notes()], model=MODELS.build(model)
    )

    players, student = start['it']
    rng = counter_rng(5, 0, 0, stream=2)
    noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
    z = torch.randn(4, 5, generator=noise, dtype=torch.double)
    images = players.normalise(players.generator(z))
    # Each pixel is a sample.
    log_p, log_q = (
        net(images).log_softmax(1).movedim(1, 3).reshape(-1, 3)
        for net in (teacher, student.eval())
    )
    p, mean = log_p.exp(), log_p.exp().mean(0)
    judged = torch.nn.functional.softplus(-players.discriminator(images))
    expected = dict(
        loss_adv=(p * (log_q - log_p)).sum(1).mean(),
        loss_align=-(p * log_p).sum(1).mean(),
        loss_local=judged.mean(),
        loss_balance=(mean * mean.log()).sum(),
        confidence=p.amax(1).mean(),
    )
    scalars = runner.message_hub.log_scalars
    for name, value in expected.items():
        found = scalars[f'train/mosaic.{name}'].data[0]
        assert found[0] == pytest.approx(value.item(), rel=1e-6), name
        assert np.isfinite(found).all()
    assert len(figures) == 3
    assert all(picked.label is None for pick in figures for picked in pick)
    loss = scalars['train/distill.loss_logits'].data[0]
    assert np.isfinite(loss).all() and (loss > 0).all()


def test_bfloat16(teacher, spy, tmp_path):
    for name, dtype in (('full', None), ('half', 'bfloat16')):
        hook = mosaic_hook(amp_dtype=dtype, batch_size=8, student_steps=3)
        run(tmp_path / name, teacher, hook)
    full, half = spy['terms'][:2], spy['terms'][2:]
    assert full[0]['loss_d'] != half[0]['loss_d']
    for one, two in zip(full, half, strict=True):
        for name in TERMS - {'class_entropy'}:
            assert two[name] == pytest.approx(one[name], rel=0.1, abs=0.05)
    for image in spy['samples']:
        assert image.dtype == torch.float32


class CPUAmpOptimWrapper(AmpOptimWrapper):
    """The engine's, which refuses to work on a CPU."""

    def __init__(self, optimizer, dtype):
        OptimWrapper.__init__(self, optimizer)
        self.cast_dtype = getattr(torch, dtype)
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self._scale_update_param = None


def test_precision_is_that_of_the_run(teacher, spy, tmp_path):
    def train(name, hook, **wrapper):
        optimizer = dict(type='SGD', lr=0.05)
        run(
            tmp_path / name,
            teacher,
            mosaic_hook(**hook),
            epochs=1,
            optim_wrapper=dict(optimizer=optimizer, **wrapper),
        )

    train('one', {}, type=CPUAmpOptimWrapper, dtype='bfloat16')
    train('two', dict(amp_dtype='bfloat16'))
    train('three', {})
    one, two, three = spy['terms']
    # At the first update, the student is the same.
    assert one == two != three


def half_works():
    try:
        with torch.autocast('cpu', torch.float16):
            torch.nn.Conv2d(1, 1, 3)(torch.zeros(1, 1, 4, 4)).sum().backward()
    except RuntimeError:
        return False
    return True


@pytest.mark.skipif(not half_works(), reason='no float16 on this CPU')
def test_float16(teacher, tmp_path):
    hook = mosaic_hook(amp_dtype='float16', student_steps=1)
    checkpoint = dict(type='SafeCheckpointHook', interval=1)
    options = dict(
        epochs=2, default_hooks=dict(logger=None, checkpoint=checkpoint)
    )
    run(tmp_path, teacher, hook, **options)
    run(
        tmp_path / 'two',
        teacher,
        hook,
        load_from=str(tmp_path / 'epoch_1.pth'),
        resume=True,
        **options,
    )
    states = [
        torch.load(folder / 'epoch_2.pth', weights_only=False)[
            'mosaic_generator_hook'
        ]['players']
        for folder in (tmp_path, tmp_path / 'two')
    ]
    assert leaves(states[0]) == leaves(states[1])
    # The generator's first steps are skipped, to find a scale.
    assert states[0]['generator_scaler']['scale'] < 65536
    assert states[0]['discriminator_scaler']['scale'] == 65536
    assert states[0]['discriminator_scaler']['_growth_tracker'] == 6
    for name in ('generator', 'discriminator'):
        for value in states[0][name].values():
            assert value.isfinite().all()


# Faults ----------------------------------------------------------------


class Poison(Hook):
    """Puts a NaN into a network, before or after an iteration's work."""

    priority = 'HIGH'

    def __init__(self, hook, part, iteration, late=False):
        self.hook = hook
        self.part = part
        self.iteration = iteration
        self.late = late

    def _poison(self, runner):
        if runner.iter == self.iteration:
            owner = self.hook.players
            if self.part in ('teacher', 'student'):
                owner = runner.model
            net = getattr(owner, self.part)
            # The last weights: of the answers.
            weight = [*net.parameters()][-1]
            weight.data.view(-1)[0] = math.nan

    def before_train_iter(self, runner, batch_idx, data_batch):
        if not self.late:
            self._poison(runner)

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        if self.late:
            self._poison(runner)


def poisoned(folder, teacher, part, iteration, **options):
    config = mosaic_hook(student_steps=3)
    config.pop('type')
    hook = MosaicGeneratorHook(**config)
    checkpoint = dict(type='SafeCheckpointHook', interval=1)
    with pytest.raises(FloatingPointError) as error:
        run(
            folder,
            teacher,
            hook,
            hooks=[
                Poison(hook, part, iteration, **options),
                dict(type='NonFiniteLossHook'),
            ],
            epochs=4,
            default_hooks=dict(logger=None, checkpoint=checkpoint),
        )
    last = folder / 'epoch_2.pth'
    message = str(error.value)
    assert f'The last good checkpoint is {last}.' in message
    assert (folder / 'last_checkpoint').read_text() == str(last)
    names = sorted(path.name for path in folder.glob('epoch_*.pth'))
    assert names == ['epoch_1.pth', 'epoch_2.pth']
    state = torch.load(last, weights_only=False)
    parts = state['mosaic_generator_hook']['players']
    for name in (state['state_dict'], parts['generator']):
        assert all(value.isfinite().all() for value in name.values())
    assert all(v.isfinite().all() for v in parts['discriminator'].values())
    return message


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            'generator',
            "the discriminator's loss (loss_d), because of weights that are "
            'not finite in the generator, became NaN',
        ),
        (
            'discriminator',
            "the discriminator's loss (loss_d), because of weights that are "
            'not finite in the discriminator, became NaN',
        ),
        (
            'teacher',
            "the generator's loss (loss_adv, loss_align, loss_balance), "
            'because of weights that are not finite in the teacher, became',
        ),
        (
            'student',
            "the generator's loss (loss_adv), because of weights that are "
            'not finite in the student, became NaN or infinite',
        ),
    ],
)
def test_not_finite(part, message, teacher, tmp_path):
    # The first iteration of the third epoch, in which all are updated.
    found = poisoned(tmp_path, teacher, part, 6)
    assert found.startswith(message)
    assert 'in iteration 7.' in found


@pytest.mark.parametrize('part', ['generator', 'discriminator'])
def test_broken_players_are_not_saved(part, teacher, tmp_path):
    # After the last iteration of the third epoch.
    found = poisoned(tmp_path, teacher, part, 8, late=True)
    assert found.startswith(f'the weights of the {part} became NaN')


def test_state_is_plain(teacher, tmp_path):
    """Whatever reads a checkpoint needs none of this package's classes."""
    checkpoint = dict(type='SafeCheckpointHook', interval=1)
    run(
        tmp_path,
        teacher,
        mosaic_hook(),
        epochs=1,
        default_hooks=dict(logger=None, checkpoint=checkpoint),
    )
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    torch.save(state['mosaic_generator_hook'], tmp_path / 'hook.pth')
    state = torch.load(tmp_path / 'hook.pth', weights_only=True)
    assert state['generator'] == mosaic_hook()['generator']
    assert type(state['generator']) is dict
    assert state['mean'] == [120.5] * 3 and state['std'] == [60.0] * 3


class Far(torch.Tensor):
    """A tensor that is not on the CPU."""

    def cpu(self):
        return self.as_subclass(torch.Tensor) + 0


def test_state_is_on_the_cpu(teacher, tmp_path):
    config = mosaic_hook()
    config.pop('type')
    hook = MosaicGeneratorHook(**config)
    runner = run(tmp_path, teacher, hook, epochs=1)
    players = hook.players
    players.class_counts = players.class_counts.as_subclass(Far)
    norm = players.generator.layers[0]
    norm.running_mean = norm.running_mean.as_subclass(Far)
    moments = players.optimizers['discriminator'].state
    for state in moments.values():
        state['exp_avg'] = state['exp_avg'].as_subclass(Far)

    def far(value):
        if isinstance(value, dict):
            return sum(map(far, value.values()))
        if isinstance(value, (list, tuple)):
            return sum(map(far, value))
        return isinstance(value, Far)

    expected = players.state_dict()
    assert far(expected) == 2 + len(moments)
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    found = checkpoint['mosaic_generator_hook']['players']
    assert far(found) == 0
    assert leaves(found) == leaves(expected)
    # The players' own have stayed where they are.
    assert far(players.state_dict()) == 2 + len(moments)


def test_types_that_are_classes(teacher, tmp_path):
    """As in a config of pure Python."""
    config = mosaic_hook()
    config.pop('type')
    config['generator']['type'] = MosaicGenerator
    config['discriminator']['type'] = PatchDiscriminator
    hook = MosaicGeneratorHook(**config)
    checkpoint = dict(type='SafeCheckpointHook', interval=1)
    run(
        tmp_path,
        teacher,
        hook,
        epochs=1,
        default_hooks=dict(logger=None, checkpoint=checkpoint),
    )
    path = str(tmp_path / 'epoch_1.pth')
    state = read_checkpoint(path)['mosaic_generator_hook']
    assert state['generator'] == mosaic_hook()['generator']
    generator, meta = load_generator(path)
    assert type(generator) is MosaicGenerator
    assert meta['generator']['type'] == 'MosaicGenerator'
    z = torch.randn(4, 5)
    with torch.no_grad():
        assert generator(z).equal(hook.players.sample(z=z))


# Batch statistics of all processes -------------------------------------


@pytest.mark.parametrize(
    ('options', 'names'),
    [
        (dict(sync_bn=['discriminator']), {'discriminator'}),
        (
            dict(sync_bn=['generator', 'discriminator']),
            {'generator', 'discriminator'},
        ),
        (dict(compat='official'), {'discriminator'}),
        (dict(compat='official', sync_bn=[]), set()),
        ({}, set()),
    ],
)
@pytest.mark.parametrize('distributed', [True, False])
def test_synchronised_norms(distributed, options, names, monkeypatch):
    config = mosaic_hook(**options)
    config.pop('type')
    hook = MosaicGeneratorHook(**config)
    hook._algorithm = SimpleNamespace(
        student=torch.nn.Linear(1, 1, device='meta')
    )
    players = MosaicPlayers(
        config['generator'],
        config['discriminator'],
        mean=[120.5] * 3,
        std=[60.0] * 3,
    )
    nets = {name: getattr(players, name) for name in m.PLAYERS}
    before = {name: dict(net.named_parameters()) for name, net in nets.items()}
    states = {name: leaves(net.state_dict()) for name, net in nets.items()}
    monkeypatch.setattr(m, 'is_distributed', lambda: distributed)
    hook._synchronise_norms(None, players)
    kind = torch.nn.modules.batchnorm._BatchNorm
    for name, net in nets.items():
        assert getattr(players, name) is net
        norms = [part for part in net.modules() if isinstance(part, kind)]
        synchronised = {
            isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms
        }
        assert synchronised == {distributed and name in names}
        # The very ones: others would stand still.
        after = dict(net.named_parameters())
        assert after.keys() == before[name].keys()
        assert all(after[key] is before[name][key] for key in after)
        (group,) = players.optimizers[name].param_groups
        held = {id(parameter) for parameter in group['params']}
        assert held == {id(parameter) for parameter in net.parameters()}
        assert leaves(net.state_dict()) == states[name]


# Wrong options and wrong runs ------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(student_steps=0), 'student_steps must be .* but got 0'),
        (dict(student_steps=2.5), 'student_steps must be an integer.*2.5'),
        (dict(batch_size=1), 'batch_size must be .* >= 2, but got 1'),
        (dict(student_images='real'), "student_images must be .*'real'"),
        (dict(anneal=None), 'anneal must be True or False, but got None'),
        (
            dict(sync_bn=['generator', 'teacher']),
            r"sync_bn must be one of \('generator', .* but got 'teacher'",
        ),
        (
            dict(sync_bn='discriminator'),
            r"sync_bn must be a list of \('generator', 'discriminator'\), but "
            "got 'discriminator'",
        ),
        (dict(sync_bn=5), 'sync_bn must be a list of .*, but got 5'),
        (
            dict(real_statistics=dict(mean=[0.0] * 3)),
            'real_statistics must be a dict of mean and std, but got .*mean',
        ),
        (
            dict(real_statistics=dict(mean=[0.0], std=[1.0], pixel_max=1)),
            'real_statistics must be a dict of mean and std, .*pixel_max',
        ),
        (
            dict(real_statistics=[0.5, 0.5]),
            r'real_statistics must be a dict .* but got \[0.5, 0.5\]',
        ),
        (
            dict(real_statistics=dict(mean=[0.0], std=[0.0])),
            'std of real_statistics must be .* > 0, but got 0.0',
        ),
        (
            dict(real_statistics=dict(mean=[math.nan], std=[1.0])),
            'mean of real_statistics must be a finite number, but got nan',
        ),
        (
            dict(real_statistics=dict(mean=['a'], std=[1.0])),
            "mean of real_statistics must be a finite number, but got 'a'",
        ),
        (
            dict(real_statistics=dict(mean=127, std=[1.0])),
            'mean of real_statistics must be a list of .* but got 127',
        ),
        (
            dict(
                real_statistics=dict(mean=[0.0], std=[1.0]),
                student_images='synthetic',
            ),
            "real_statistics are for student_images='both', but got 'synth",
        ),
        (dict(missing_state='warn'), "missing_state must be .*'warn'"),
        (dict(picture_interval=0), 'picture_interval must be .* got 0'),
        (dict(num_pictures=0), 'num_pictures must be .* got 0'),
        (dict(collapse_threshold=1.5), 'collapse_threshold must .* got 1.5'),
        (dict(seed=3), 'seed is set by MosaicGeneratorHook itself.* got 3'),
        (dict(mean=[1.0]), r'mean is set by .*itself, but got \[1.0\]'),
        (dict(schedule_length=3), 'schedule_length is set by'),
        (
            dict(local_wieght=3.0),
            "MosaicGeneratorHook has no option 'local_wieght'; nearest: "
            'local_weight',
        ),
        (
            dict(student_step=3),
            "has no option 'student_step'; nearest: student_steps",
        ),
        (dict(players=3), "has no option 'players'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(mosaic_hook(**options))


def check(teacher, options=(), hook=(), dataset=None, size=4, drop=True):
    """Let the hook look at a model before a run."""
    model = MODELS.build(distillation(teacher, **dict(options)))
    HOOKS.build(mosaic_hook(**dict(hook))).check_inputs(
        model,
        make_dataset(10) if dataset is None else dataset,
        dict(batch_size=size, drop_last=drop),
    )


def test_a_good_run_passes(teacher):
    check(teacher)
    check(teacher, dataset=make_dataset(4))
    check(teacher, dataset=make_dataset(3), drop=False)
    check(teacher, hook=dict(compat='official', local_weight=2.0))


@pytest.mark.parametrize(
    ('options', 'hook', 'message'),
    [
        (
            dict(data_preprocessor=dict(PREPROCESSOR, type=0)),
            {},
            'needs a BatchAugDataPreprocessor, .* got ClsDataPreprocessor',
        ),
        (
            dict(data_preprocessor=dict(type='BatchAugDataPreprocessor')),
            {},
            "the teacher's normalisation is unknown: give mean and std",
        ),
        (
            dict(calculate_student_loss=True),
            {},
            'no labels: set calculate_student_loss=False',
        ),
        (
            {},
            dict(real_statistics=dict(mean=[0.0] * 3, std=[1.0])),
            r'std of real_statistics must have .* 3, but got \[1.0\]',
        ),
        ({}, dict(compat='oficial'), "compat must be one of .*'oficial'"),
        ({}, dict(local_weight=-1.0), 'local_weight must be .* got -1.0'),
        (
            {},
            dict(generator=dict(type='MosaicGenerator', image_size=30)),
            'image_size must be a multiple of 4 .* got 30, nearest: 28, 32',
        ),
        (
            {},
            dict(generator=dict(type='MosaicGenerator', image_size=16)),
            'generator makes images of 16x16, but the real images are 8x8',
        ),
        (
            dict(
                data_preprocessor=dict(
                    PREPROCESSOR,
                    augments=[dict(type='BatchRandomCrop', crop_size=4)],
                )
            ),
            {},
            'of 8x8, but the training images are 4x4 after augmentation',
        ),
        (
            {},
            dict(discriminator=dict(type='PatchDiscriminator')),
            'patch_size must not be larger .* got 10 for images of 8x8',
        ),
        (
            {},
            dict(generator=dict(type='MosaicGenerater')),
            "generator: there is no 'MosaicGenerater' .*MosaicGenerator",
        ),
        (
            {},
            dict(generator_optimizer=dict(type='Adam', larning_rate=1)),
            "generator_optimizer: Adam has no option 'larning_rate'",
        ),
    ],
)
def test_wrong_runs(options, hook, message, teacher):
    options = copy.deepcopy(options)
    if options.get('data_preprocessor', {}).get('type') == 0:
        options['data_preprocessor']['type'] = ClsDataPreprocessor
    with pytest.raises(ValueError, match=message):
        check(teacher, options, hook)


def test_too_few_images(teacher, tmp_path):
    with pytest.raises(
        ValueError, match=r'set of 3 out-of-domain images .* a batch of 4'
    ):
        check(teacher, dataset=make_dataset(3))
    train = loader(make_dataset(3), drop_last=True)
    match = '3 out-of-domain images a process are fewer than a batch of 4'
    with pytest.raises(ValueError, match=match):
        run(tmp_path, teacher, mosaic_hook(), train=train)
    others = loader(make_dataset(3), drop_last=True)
    match = '^3 images a process are fewer than a batch of 4'
    with pytest.raises(ValueError, match=match):
        run(tmp_path, teacher, mosaic_hook(real_dataloader=others))


def test_no_teacher():
    hook = HOOKS.build(mosaic_hook())
    model = MODELS.build(classifier(data_preprocessor=dict(PREPROCESSOR)))
    with pytest.raises(
        ValueError, match=r'needs .*TeacherDistill, but ImageCl.* has no teach'
    ):
        hook.check_inputs(model, make_dataset(4), {})


def test_a_checkpoint_without_state(teacher):
    model = MODELS.build(distillation(teacher))
    options = [model, make_dataset(4), {}, dict(state_dict={})]
    with pytest.raises(ValueError, match=r"no state.*missing_state='restart'"):
        HOOKS.build(mosaic_hook()).check_inputs(*options)
    HOOKS.build(mosaic_hook(missing_state='restart')).check_inputs(*options)
    options[-1] = dict(mosaic_generator_hook=dict(players=dict(noise=0)))
    with pytest.raises(ValueError, match=r'do not fit .* lacks'):
        HOOKS.build(mosaic_hook()).check_inputs(*options)
