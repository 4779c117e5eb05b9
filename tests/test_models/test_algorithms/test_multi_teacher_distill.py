"""Several teachers."""

import copy
import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from toy_runs import PREPROCESSOR, build_runner, loader, make_dataset
from toys import CLASSES, algorithm, architecture, kd_distiller, teacher

from mmkd_plugin.datasets.samplers import AdaptiveThresholdSampler
from mmkd_plugin.engine.preflight import missing_inputs
from mmkd_plugin.models import MultiTeacherDistill

NAMES = ('first', 'second', 'third')


def mean_distiller(names=NAMES, tau=4.0, **options):
    """Get the config of KD from the mean of the teachers."""
    first, *others = names
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        teacher_recorders={
            name: dict(type='ModuleOutputs', source=f'{name}.head.fc')
            for name in names
        },
        connectors=dict(
            mean=dict(type='AverageProbabilities', tau=tau, **options)
        ),
        distill_losses=dict(loss_kl=dict(type='KLDivergence', tau=tau)),
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(
                    from_student=False,
                    recorder=first,
                    connector='mean',
                    connector_inputs={
                        name: dict(from_student=False, recorder=name)
                        for name in others
                    },
                ),
            )
        ),
    )


def several(**options):
    """Build three teachers, the second of another width."""
    return {
        name: dict(model=teacher(seed=i + 1, width=8 if i == 1 else 4))
        | options.get(name, {})
        for i, name in enumerate(NAMES)
    }


def build(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = dict(
            type='MultiTeacherDistill',
            student=architecture(),
            calculate_student_loss=False,
            **options,
        )
        config.setdefault('teachers', several())
        config.setdefault('distiller', mean_distiller())
        return MODELS.build(config).train()


@pytest.fixture
def images(seed):
    return torch.randn(6, 3, 8, 8)


def answers(model, images):
    """Run each teacher alone."""
    return [net(images) for net in model.teachers.values()]


# -------------------------------------------------------------- teachers


def test_value_is_the_divergence_from_the_mean(images):
    model = build(distiller=mean_distiller(weights=[1, 2, 5]))
    probs = [z.div(4).softmax(1) for z in answers(model, images)]
    mean = (probs[0] + 2 * probs[1] + 5 * probs[2]) / 8
    student = copy.deepcopy(model.student)(images)
    expected = 16 * F.kl_div(
        student.div(4).log_softmax(1), mean, reduction='batchmean'
    )
    found = model(images, mode='loss')
    assert list(found) == ['distill.loss_kl']
    assert_close(found['distill.loss_kl'], expected)
    assert expected > 0.01


def test_one_of_them_is_a_single_teacher(images):
    net = teacher(seed=3)
    model = build(
        teachers=dict(only=dict(model=net)), distiller=mean_distiller(['only'])
    )
    single = algorithm(teacher=net, distiller=kd_distiller())
    single.student.load_state_dict(model.student.state_dict())
    assert_close(
        model(images, mode='loss'),
        single(images, mode='loss'),
        rtol=1e-4,
        atol=1e-6,
    )


def test_losses_of_their_own(images):
    """The gradient is that of the mean, where weights add up to one."""
    distiller = mean_distiller()
    distiller.pop('connectors')
    distiller['distill_losses'] = {
        f'loss_{name}': dict(type='KLDivergence', tau=4.0, loss_weight=1 / 3)
        for name in NAMES
    }
    preds = distiller['loss_forward_mappings'].pop('loss_kl')['preds_S']
    for name in NAMES:
        distiller['loss_forward_mappings'][f'loss_{name}'] = dict(
            preds_S=preds, preds_T=dict(from_student=False, recorder=name)
        )
    gradients = []
    for config in (distiller, mean_distiller()):
        model = build(distiller=config).double()
        losses = model(images.double(), mode='loss')
        sum(losses.values()).backward()
        gradients.append([p.grad for p in model.student.parameters()])
    assert len(losses) == 1
    assert_close(*gradients, rtol=1e-9, atol=1e-13)
    assert gradients[0][0].abs().max() > 1e-5


def test_the_loss_of_the_student(images):
    model = build()
    model.calculate_student_loss = True
    labels = torch.arange(6) % CLASSES
    samples = [DataSample().set_gt_label(label) for label in labels.tolist()]
    expected = F.cross_entropy(copy.deepcopy(model.student)(images), labels)
    found = model(images, samples, mode='loss')
    assert_close(found['student.loss'], expected)


def test_teachers_stay_in_eval_and_answer_alike(images):
    teachers = several()
    for config in teachers.values():
        config['model'].train()
    model = build(teachers=teachers)
    before = copy.deepcopy(model.teachers.state_dict())
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert model.student.training is mode
        assert not any(m.training for m in model.teachers.modules())
    values = {
        model(images, mode='loss')['distill.loss_kl'].item() for _ in range(3)
    }
    assert len(values) == 1
    assert_close(model.teachers.state_dict(), before, rtol=0, atol=0)


def test_teachers_are_no_part_of_the_model(images):
    model = build()
    sum(model(images, mode='loss').values()).backward()
    assert {key.split('.')[0] for key in model.state_dict()} == {'student'}
    assert set(model.state_dict()) == {
        f'student.{key}' for key in model.student.state_dict()
    }
    assert all(p.grad is not None for p in model.parameters())
    for parameter in model.teachers.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert not list(model.buffers(recurse=False))


def test_teachers_move_along(images):
    options = dict(second=dict(mean=[1.0], std=[2.0]))
    model = build(teachers=several(**options))
    for dtype, move in [
        (torch.float64, lambda: model.to(torch.float64)),
        (torch.float32, model.float),
        (torch.float64, nn.Sequential(model).double),
    ]:
        move()
        for net in model.teachers.values():
            assert net.head.fc.weight.dtype == dtype
            assert net.backbone.bn1.running_mean.dtype == dtype
    terms = model(images.double(), mode='loss')
    assert {t.dtype for t in terms.values()} == {torch.float64}
    assert model.images_of('second', images.double()).dtype == torch.float64
    model.to('meta')
    assert model.images_of('second', images.to('meta')).is_meta
    assert next(model.teachers['third'].parameters()).is_meta


def test_init_weights_does_not_touch_them():
    model = build()
    before = copy.deepcopy(model.teachers.state_dict())
    model.init_weights()
    assert_close(model.teachers.state_dict(), before, rtol=0, atol=0)


def test_channels_last(images):
    model = build(channels_last=True)
    expected = build()(images, mode='loss')
    for net in (model.student, *model.teachers.values()):
        assert net.backbone.conv1.weight.is_contiguous(
            memory_format=torch.channels_last
        )
    assert_close(model(images, mode='loss'), expected)


def test_copies_after_a_step(images):
    model = build(teachers=several(third=dict(mean=[0.5], std=[0.5])))
    loss = model(images, mode='loss')['distill.loss_kl']
    loss.backward()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again = copied(images, mode='loss')['distill.loss_kl']
        assert_close(again, loss)
        copied.teachers['first'].head.fc.weight.data.zero_()
        other = copied(images, mode='loss')['distill.loss_kl']
        assert (other - loss).abs() > 1e-3
        assert_close(model(images, mode='loss')['distill.loss_kl'], loss)


def test_checkpoints(images, tmp_path):
    trained = {name: teacher(seed=20 + i) for i, name in enumerate(NAMES)}
    teachers = {}
    for name, net in trained.items():
        torch.save(net.state_dict(), tmp_path / f'{name}.pth')
        teachers[name] = dict(
            model=architecture(), ckpt=str(tmp_path / f'{name}.pth')
        )
    model = build(teachers=teachers)
    for name, net in trained.items():
        assert_close(
            model.teachers[name].state_dict(),
            net.state_dict(),
            rtol=0,
            atol=0,
        )
    torch.save(teacher(width=8).state_dict(), tmp_path / 'second.pth')
    with pytest.raises(ValueError, match=r"teacher 'second' from .* not fit"):
        build(teachers=teachers)


# ------------------------------------------------------------ statistics

RUN = dict(
    type='mmpretrain.ClsDataPreprocessor',
    mean=[120.0, 110.0, 100.0],
    std=[60.0, 50.0, 40.0],
)
OTHER = dict(mean=[10.0, 20.0, 30.0], std=[200.0, 100.0, 50.0])


class Looking(nn.Module):
    """A teacher that keeps what it sees."""

    def __init__(self, data_preprocessor=None):
        super().__init__()
        self.head = nn.Sequential()
        self.head.fc = nn.Linear(3, CLASSES)
        self.data_preprocessor = data_preprocessor
        self.seen = []

    def forward(self, inputs, mode):
        self.seen.append(inputs)
        return self.head.fc(inputs.mean((2, 3)))


def looking(**options):
    """Build four teachers: two with options, one with a preprocessor."""
    made = dict(
        same=dict(model=Looking()),
        given=dict(model=Looking(), **OTHER),
        own=dict(
            model=Looking(MODELS.build(dict(RUN, **OTHER))),
        ),
        alike=dict(model=Looking(MODELS.build(RUN))),
        third=dict(model=Looking(), mean=[1.0], std=[2.0]),
    )
    return made | options


def test_each_teacher_gets_the_images_it_knows(seed):
    teachers = looking()
    model = build(
        data_preprocessor=RUN,
        teachers=teachers,
        distiller=mean_distiller(list(teachers)),
    ).double()
    pixels = torch.randint(0, 256, (4, 3, 8, 8))
    batch = model.data_preprocessor(dict(inputs=pixels))
    inputs = batch['inputs'].double()
    model(inputs, mode='loss')
    seen = {name: net.seen[0] for name, net in model.teachers.items()}
    assert seen['same'] is inputs
    assert seen['alike'] is inputs
    # Computed once.
    assert seen['given'] is seen['own']
    mean, std = (torch.tensor(OTHER[k]).view(3, 1, 1) for k in OTHER)
    exact = dict(rtol=1e-5, atol=1e-5)
    assert_close(seen['given'], (pixels.double() - mean) / std, **exact)
    assert_close(seen['third'], (pixels.double() - 1) / 2, **exact)


def test_a_run_that_does_not_normalise(seed):
    teachers = looking()
    model = build(teachers=teachers, distiller=mean_distiller(list(teachers)))
    pixels = torch.randint(0, 256, (4, 3, 8, 8)).float()
    model(pixels, mode='loss')
    seen = {name: net.seen[0] for name, net in model.teachers.items()}
    assert seen['same'] is pixels
    assert_close(seen['third'], (pixels - 1) / 2)
    mean, std = (torch.tensor(RUN[k]).view(3, 1, 1) for k in ('mean', 'std'))
    assert_close(seen['alike'], (pixels - mean) / std)


def test_memory_order_is_kept():
    model = build(teachers=several(second=dict(**OTHER)))
    images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    made = model.images_of('second', images)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_other_recorders_see_all_teachers(images):
    """Those of a function, one teacher after the other."""
    recorder = dict(
        type='MethodOutputs', source='mmpretrain.models.LinearClsHead.forward'
    )
    distiller = kd_distiller()
    distiller['teacher_recorders'] = dict(logits=recorder)
    preds = distiller['loss_forward_mappings']['loss_kl']['preds_T']
    model = build(distiller=distiller)
    for index in range(3):
        preds['record_idx'] = index
        model = build(distiller=distiller)
        target = answers(model, images)[index]
        student = copy.deepcopy(model.student)(images)
        expected = 16 * F.kl_div(
            student.div(4).log_softmax(1),
            target.div(4).log_softmax(1),
            reduction='batchmean',
            log_target=True,
        )
        found = model(images, mode='loss')['distill.loss_kl']
        assert_close(found, expected)


# ---------------------------------------------------------------- errors


def renamed(name):
    return dict(
        teachers={name: dict(model=teacher())},
        distiller=mean_distiller([name]),
    )


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(teachers={}), r'at least one teacher .* but got \{\}'),
        (dict(teachers=[teacher()]), r'must be a dict of .* but got \['),
        (renamed('a.b'), r"a string without dots, but got 'a\.b'"),
        (renamed(''), "a string without dots, but got ''"),
        (renamed('items'), "a teacher cannot be called 'items'"),
        (
            dict(teachers=several() | dict(second=architecture())),
            r"teachers\['second'\] must be dict\(model=\.\.\., ckpt=",
        ),
        (
            dict(teachers=several(first=dict(ckpt_path='a.pth'))),
            r"teachers\['first'\] has the unknown key 'ckpt_path'; .* ckpt",
        ),
        (
            dict(teachers=several(first=dict(mean=[1.0]))),
            r"teachers\['first'\]: std must be a sequence .* got None",
        ),
        (
            dict(teachers=several(first=dict(mean=[1.0], std=[0.0]))),
            r"teachers\['first'\]: std must be .* > 0, but got 0\.0",
        ),
        (
            dict(teachers=several(first=dict(mean=[1.0], std=[1.0, 2.0]))),
            r'one number for each channel, but got \[1\.0\] and \[1\.0, 2\.0',
        ),
        (
            dict(teachers=several(first=dict(mean='12', std='12'))),
            r"mean must be a sequence of numbers, .* got '12'",
        ),
        (
            dict(teachers=several(third=dict(model=architecture()))),
            r"teachers\['third'\]: ckpt is missing",
        ),
        (
            dict(teachers=several(second=dict(model=teacher(classes=7)))),
            r"the teacher 'second' has 7 classes, but the student has 5",
        ),
        (
            dict(distiller=mean_distiller(['first', 'second'])),
            r"looks at the teachers \['third'\]",
        ),
        (
            dict(distiller=mean_distiller(['first', 'second', 'thrid'])),
            r"no module 'thrid\.head\.fc'; nearest: third\.head\.fc",
        ),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_weight_too_few(images):
    model = build(distiller=mean_distiller(weights=[1, 2]))
    with pytest.raises(
        ValueError, match=r'for each of the 3 teachers, but got \[1, 2\]'
    ):
        model(images, mode='loss')


def test_missing_checkpoints_are_all_named():
    config = dict(
        teachers=dict(a=dict(ckpt='no_a.pth'), b=dict(ckpt='no_b.pth'))
    )
    problems = missing_inputs(Config(dict(model=config)))
    assert problems == [
        "model.teachers.a.ckpt = 'no_a.pth'",
        "model.teachers.b.ckpt = 'no_b.pth'",
    ]


def test_no_one_teacher_to_choose_images_with():
    model = build()
    dataset = make_dataset(8, labels=False)
    for choose in (
        lambda: AdaptiveThresholdSampler(dataset, num_samples=4),
        lambda: AdaptiveThresholdSampler.check_inputs(dataset, model),
    ):
        with pytest.raises(ValueError, match='has no teacher: use it in a'):
            choose()


# ---------------------------------------------------------------- training


def test_a_run(tmp_path):
    teachers = {
        name: dict(model=teacher(seed=i, classes=3))
        for i, name in enumerate(NAMES)
    }
    runner = build_runner(
        tmp_path,
        dict(
            type='MultiTeacherDistill',
            student=architecture(2, classes=3),
            teachers=teachers,
            distiller=mean_distiller(),
            data_preprocessor=PREPROCESSOR,
        ),
        loader(make_dataset(8)),
        epochs=1,
        default_hooks=dict(
            logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
        ),
    )
    assert isinstance(runner.model, MultiTeacherDistill)
    before = copy.deepcopy(runner.model.student.state_dict())
    runner.train()
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert {key.split('.')[0] for key in saved['state_dict']} == {'student'}
    assert not torch.equal(
        before['head.fc.weight'], saved['state_dict']['student.head.fc.weight']
    )
