import copy
import gc
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from toys import (
    CLASSES,
    algorithm,
    architecture,
    eeikd_distiller,
    kd_distiller,
    sources,
    teacher,
)

from mmkd_plugin.models import KLDivergence, SingleTeacherDistill
from mmkd_plugin.structures import BatchSamples
from mmkd_plugin.utils.architecture import build_architecture
from mmkd_plugin.utils.running_algorithm import running_algorithm

STATISTICS = dict(
    type='mmpretrain.ClsDataPreprocessor',
    mean=[1.0, 2.0, 3.0],
    std=[4.0, 5.0, 6.0],
)


@pytest.fixture
def images(seed):
    return torch.randn(8, 3, 8, 8)


@pytest.fixture
def labels():
    return torch.arange(8) % CLASSES


def optimizer(model, lr=0.05):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr))


def labeled(labels):
    return [DataSample().set_gt_label(label) for label in labels.tolist()]


def step(model, images, wrapper=None, samples=None):
    data = dict(inputs=images, data_samples=samples)
    return model.train_step(data, wrapper or optimizer(model))


def numbers(log):
    return {name: value.item() for name, value in log.items()}


def hook_count(model):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in model.modules()
    )


# -------------------------------------------------------------- teacher


def test_train_returns_the_model_and_leaves_the_teacher_in_eval():
    frozen = teacher()
    frozen.head.dropout = nn.Dropout()
    frozen.train()
    model = algorithm(teacher=frozen)
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert model.student.training is mode
        assert model.distiller.training is mode
        assert not any(m.training for m in model.teacher.modules())
    assert model.eval() is model
    # Whoever put it in training mode.
    model.teacher.train()
    model.train()
    assert not any(m.training for m in model.teacher.modules())


def test_teacher_is_in_eval_from_the_start():
    frozen = teacher()
    assert frozen.training
    model = SingleTeacherDistill(
        student=architecture(), teacher=frozen, distiller=kd_distiller()
    )
    assert not any(m.training for m in model.teacher.modules())


class Noisy(nn.Module):
    """A teacher whose answers differ in training mode alone."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential()
        self.head.fc = nn.Linear(3, CLASSES)
        self.backbone = nn.Sequential()
        self.backbone.bn1 = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs, mode):
        assert mode == 'tensor'
        assert not torch.is_grad_enabled()
        feature = self.backbone.bn1(inputs)
        return self.head.fc(self.drop(feature).mean((2, 3)))


def test_teacher_answers_alike_in_training(images):
    model = algorithm(teacher=Noisy(), distiller=kd_distiller())
    before = copy.deepcopy(model.teacher.state_dict())
    values = {
        numbers(model(images, mode='loss'))['distill.loss_kl']
        for _ in range(3)
    }
    # The student's batch norm does not depend on its running statistics.
    assert len(values) == 1
    step(model, images)
    assert_close(model.teacher.state_dict(), before, rtol=0, atol=0)


def test_teacher_is_no_part_of_the_model():
    model = algorithm()
    assert not any('teacher' in name for name, _ in model.named_modules())
    own = {id(p) for p in model.parameters()}
    theirs = {id(p) for p in model.teacher.parameters()}
    assert not own & theirs
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert {key.split('.')[0] for key in model.state_dict()} == {'student'}
    assert set(model.state_dict()) == {
        f'student.{key}' for key in model.student.state_dict()
    }


def test_teacher_moves_along(images):
    model = algorithm()
    for dtype, move in [
        (torch.float64, lambda: model.to(torch.float64)),
        (torch.float32, model.float),
        (torch.float64, nn.Sequential(model).double),
    ]:
        move()
        floating = [
            t
            for t in model.teacher.state_dict().values()
            if t.is_floating_point()
        ]
        assert {t.dtype for t in floating} == {dtype}
    terms = model(images.double(), mode='loss')
    assert {t.dtype for t in terms.values()} == {torch.float64}
    model.to('meta')
    assert next(model.teacher.parameters()).is_meta


def test_init_weights_does_not_touch_the_teacher():
    model = algorithm()
    before = copy.deepcopy(model.teacher.state_dict())
    student = copy.deepcopy(model.student.state_dict())
    model.init_weights()
    assert_close(model.teacher.state_dict(), before, rtol=0, atol=0)
    assert not torch.equal(
        model.student.head.fc.weight, student['head.fc.weight']
    )


# ---------------------------------------------------------- checkpoints


@pytest.fixture
def saved(tmp_path):
    """Function that saves a model's weights and gives the path."""

    def save(model, name='weights.pth'):
        path = tmp_path / name
        torch.save(dict(state_dict=model.state_dict()), path)
        return path

    return save


def test_student_checkpoint_survives_init_weights(saved):
    start = teacher(seed=9)
    model = algorithm(student_ckpt=str(saved(start)))
    for _ in range(2):
        assert_close(
            model.student.state_dict(), start.state_dict(), rtol=0, atol=0
        )
        model.init_weights()


def test_teacher_checkpoint(saved):
    trained = teacher(seed=9)
    # A path object will do.
    model = algorithm(teacher=architecture(), teacher_ckpt=saved(trained))
    assert_close(
        model.teacher.state_dict(), trained.state_dict(), rtol=0, atol=0
    )
    assert not any(p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize('who', ['teacher', 'student'])
def test_checkpoint_of_another_architecture(saved, who):
    path = saved(teacher(width=8))
    options = {f'{who}_ckpt': path}
    if who == 'teacher':
        options['teacher'] = architecture()
    with pytest.raises(ValueError) as error:
        algorithm(**options)
    text = str(error.value)
    assert text.startswith(f'{who} from {path}: the weights do not fit')
    assert 'checkpoint (8, 3, 3, 3) vs model (4, 3, 3, 3)' in text


@pytest.mark.parametrize('who', ['teacher', 'student'])
def test_missing_checkpoint_file(tmp_path, who):
    path = tmp_path / 'nothing.pth'
    with pytest.raises(FileNotFoundError, match=r'no checkpoint .*nothing'):
        if who == 'teacher':
            algorithm(teacher=architecture(), teacher_ckpt=path)
        algorithm(student_ckpt=str(path))


@pytest.mark.parametrize(
    'more',
    [
        {},
        # These take effect in init_weights(), which the teacher never sees.
        dict(pretrained='weights.pth'),
        dict(init_cfg=dict(type='Pretrained', checkpoint='weights.pth')),
    ],
)
def test_untrained_teacher(more):
    with pytest.raises(ValueError, match='teacher_ckpt is missing'):
        algorithm(teacher=architecture(**more))


@MODELS.register_module()
class OwnWeightsNet(Noisy):
    """Brings its weights, as timm's and torchvision's models do."""

    def __init__(self, pretrained=False):
        super().__init__()
        if pretrained:
            nn.init.ones_(self.head.fc.weight)


def test_teacher_that_brings_its_weights():
    model = algorithm(
        teacher=dict(type='OwnWeightsNet', pretrained=True),
        distiller=kd_distiller(),
    )
    assert (model.teacher.head.fc.weight == 1).all()
    with pytest.raises(ValueError, match='teacher_ckpt is missing'):
        algorithm(
            teacher=dict(type='OwnWeightsNet', pretrained=False),
            distiller=kd_distiller(),
        )


# -------------------------------------------------------- architectures


def test_architecture_of_a_config_file(tmp_path):
    config = architecture()
    del config['_scope_']
    config['type'] = 'ImageClassifier'
    path = tmp_path / 'student.py'
    # The file says in which scope its names are, also where the current
    # one is another.
    Config(dict(default_scope='mmpretrain', model=config)).dump(path)
    for scope in (None, 'mmpretrain'):
        with DefaultScope.overwrite_default_scope(scope):
            model = algorithm(
                student=dict(cfg_path=str(path), pretrained=False)
            )
        assert model.student.backbone.conv1.out_channels == 4
    Config(dict(model=architecture(width=8))).dump(path)
    model = algorithm(
        student=dict(cfg_path=str(path)), distiller=kd_distiller()
    )
    assert model.student.backbone.conv1.out_channels == 8


def test_architecture_of_a_package():
    name = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    model = algorithm(
        student=dict(cfg_path=name),
        teacher=teacher(classes=10),
        distiller=kd_distiller(),
    )
    assert model.student.backbone.conv1.out_channels == 64
    assert model.student.head.num_classes == 10


def test_statistics_of_a_config_file_are_checked(tmp_path):
    path = tmp_path / 'teacher.py'
    given = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    # Where mmpretrain's configs have them: beside the model.
    Config(dict(model=architecture(), data_preprocessor=given)).dump(path)
    built = build_architecture(dict(cfg_path=str(path)))
    ours = dict(type='BatchAugDataPreprocessor', **given)
    algorithm(teacher=built, data_preprocessor=ours)
    with pytest.raises(ValueError, match=r'trained with the mean \[1.0, 2'):
        algorithm(
            teacher=built,
            data_preprocessor=dict(ours, mean=[0.0, 0.0, 0.0]),
        )


def test_architecture_that_is_wrong(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('answer = 42\n')
    with pytest.raises(ValueError, match=r"has no model; .*\['answer'\]"):
        algorithm(student=dict(cfg_path=str(path)))
    with pytest.raises(
        ValueError, match='pretrained=True is not supported, download'
    ):
        algorithm(student=dict(cfg_path=str(path), pretrained=True))
    with pytest.raises(ValueError, match=r"\['backbone'\] would be ignored"):
        algorithm(student=dict(cfg_path=str(path), backbone=dict(depth=50)))
    with pytest.raises(FileNotFoundError, match='nothing'):
        algorithm(student=dict(cfg_path=str(tmp_path / 'nothing.py')))


def test_built_student_is_taken_as_it_is():
    student = teacher(seed=4)
    assert algorithm(student=student).student is student


# ------------------------------------------------------------- the pair


def test_class_counts_differ():
    with pytest.raises(
        ValueError, match='teacher has 7 classes, but the student has 5'
    ):
        algorithm(teacher=teacher(classes=7))


def test_class_count_of_a_timm_like_model():
    """It is an attribute of what the classifier wraps."""
    model = OwnWeightsNet()
    model.model = SimpleNamespace(num_classes=3)
    with pytest.raises(ValueError, match='teacher has 3 classes'):
        algorithm(teacher=model)


@pytest.mark.parametrize(
    ('ours', 'message'),
    [
        (None, r'the mean \[1\.0, 2\.0, 3\.0\] .* here has None'),
        (
            dict(STATISTICS, mean=[1.0, 2.0, 4.0]),
            r'the mean \[1\.0, 2\.0, 3\.0\] .* has \[1\.0, 2\.0, 4\.0\]',
        ),
        (
            dict(STATISTICS, std=[4.0, 5.0, 7.0]),
            r'the std \[4\.0, 5\.0, 6\.0\] .* has \[4\.0, 5\.0, 7\.0\]',
        ),
        (
            dict(STATISTICS, mean=[1.0], std=[1.0]),
            r'the mean .* here has \[1\.0\]',
        ),
    ],
)
def test_statistics_of_the_teacher(ours, message):
    with pytest.raises(ValueError, match=message):
        algorithm(
            teacher=teacher(data_preprocessor=dict(STATISTICS)),
            data_preprocessor=ours,
        )


def test_statistics_that_agree_or_are_unknown():
    whole = dict(STATISTICS, mean=[1, 2, 3])
    for options in (dict(teacher=teacher(data_preprocessor=whole)), {}):
        model = algorithm(data_preprocessor=dict(STATISTICS), **options)
        mean = model.data_preprocessor.mean.flatten().tolist()
        assert mean == STATISTICS['mean']


def test_unknown_module_is_found_before_training():
    distiller = kd_distiller()
    distiller['teacher_recorders'] = dict(
        logits=dict(type='ModuleOutputs', source='head.fcc')
    )
    with pytest.raises(
        ValueError,
        match=r"teacher_recorders\['logits'\]: ImageClassifier has no module "
        r"'head\.fcc'; nearest: head\.fc",
    ):
        algorithm(distiller=distiller)


# ----------------------------------------------------------- one forward


def test_terms_of_unlabeled_images(images):
    model = algorithm()
    terms = model(images, mode='loss')
    assert list(terms) == [
        'distill.loss_kl',
        'distill.loss_front',
        'distill.loss_back',
        'distill.loss_relation',
    ]
    with torch.no_grad():
        preds_S, preds_T = model.student(images), model.teacher(images)
        mask = model.distiller.connectors['mask']
        expected = KLDivergence(tau=4.0)(preds_S, mask(preds_T))
    assert_close(terms['distill.loss_kl'], expected)
    # What comes with unlabeled images is not looked at.
    for samples in (
        [],
        [DataSample()] * 8,
        BatchSamples(torch.arange(8)),
    ):
        assert numbers(model(images, samples, mode='loss')) == numbers(terms)


@pytest.mark.parametrize(
    'make',
    [
        labeled,
        lambda labels: BatchSamples(torch.arange(8), labels),
        lambda labels: [
            DataSample().set_gt_score(score)
            for score in torch.eye(CLASSES)[labels]
        ],
    ],
    ids=['list', 'batch', 'scores'],
)
def test_loss_of_the_student(images, labels, make):
    model = algorithm(calculate_student_loss=True)
    terms = model(images, make(labels), mode='loss')
    assert next(iter(terms)) == 'student.loss'
    assert len(terms) == 5
    expected = cross_entropy(model.student(images), labels)
    assert_close(terms['student.loss'], expected)
    own = model.student(images, labeled(labels), mode='loss')['loss']
    assert_close(terms['student.loss'], own)


def test_logs_have_all_of_the_heads_entries(images, labels):
    student = architecture()
    student['head'] = dict(student['head'], cal_acc=True)
    model = algorithm(student=student, calculate_student_loss=True)
    log = step(model, images, samples=labeled(labels))
    assert list(log) == [
        'loss',
        'student.loss',
        'student.accuracy_top-1',
        'distill.loss_kl',
        'distill.loss_front',
        'distill.loss_back',
        'distill.loss_relation',
    ]
    terms = numbers(log)
    total = sum(v for k, v in terms.items() if '.loss' in k)
    assert terms['loss'] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    'samples',
    [
        None,
        [],
        [DataSample()] * 8,
        [DataSample().set_gt_label(1)] * 7 + [DataSample()],
        BatchSamples(torch.arange(8)),
    ],
)
def test_no_labels_for_the_student(images, samples):
    model = algorithm(calculate_student_loss=True)
    with pytest.raises(
        ValueError, match=r'no labels .* set calculate_student_loss=False or'
    ):
        model(images, samples, mode='loss')


@MODELS.register_module()
class BatchEchoLoss(nn.Module):
    """Keeps the last it was given."""

    def forward(self, preds_S, gt_label, sample_idx, images):
        self.given = (gt_label, sample_idx, images)
        return preds_S.sum() * 0


def batch_echo():
    recorders = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    return dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        distill_losses=dict(loss_echo=dict(type='BatchEchoLoss')),
        loss_forward_mappings=dict(
            loss_echo=dict(
                preds_S=sources('logits')['preds_S'],
                gt_label=dict(from_batch='gt_label'),
                sample_idx=dict(from_batch='sample_idx'),
                images=dict(from_batch='inputs'),
            )
        ),
    )


def test_sources_of_the_batch(images, labels):
    model = algorithm(distiller=batch_echo())
    index = torch.arange(8) * 3
    listed = labeled(labels)
    for sample, position in zip(listed, index.tolist(), strict=True):
        sample.set_metainfo(dict(sample_idx=position))
    for samples in (listed, BatchSamples(index, labels)):
        model(images, samples, mode='loss')
        given = model.distiller.distill_losses['loss_echo'].given
        for found, expected in zip(
            given, (labels, index, images), strict=True
        ):
            assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('samples', 'name'),
    [
        (BatchSamples(torch.arange(8)), 'gt_label'),
        (labeled(torch.arange(8) % 2), 'sample_idx'),
        (
            [DataSample(metainfo=dict(sample_idx=0)).set_gt_label(1)] * 7
            + [DataSample().set_gt_label(1)],
            'sample_idx',
        ),
    ],
)
def test_source_that_the_batch_has_not(images, samples, name):
    model = algorithm(distiller=batch_echo())
    with pytest.raises(
        ValueError, match=f'the batch has no {name}, which loss_forward_map'
    ):
        model(images, samples, mode='loss')


@pytest.mark.parametrize('bad', [-1, 5])
@pytest.mark.parametrize('own_loss', [True, False])
def test_labels_out_of_range(images, bad, own_loss):
    """The same message, whether the student's head would come first."""
    model = algorithm(distiller=batch_echo(), calculate_student_loss=own_loss)
    samples = BatchSamples(torch.arange(8), torch.tensor([0] * 7 + [bad]))
    with pytest.raises(
        ValueError, match=rf'must be in \[0, 5\), .* but got {bad}'
    ):
        model(images, samples, mode='loss')


def test_other_modes_are_those_of_the_student(images, labels):
    model = algorithm().eval()
    assert_close(model(images), model.student(images))
    samples = labeled(labels)
    predicted = model(images, samples, mode='predict')
    assert [p.pred_label.item() for p in predicted] == model(images).argmax(
        dim=1
    ).tolist()
    predicted = model.val_step(dict(inputs=images, data_samples=samples))
    assert len(predicted) == 8
    with pytest.raises(RuntimeError, match='Invalid mode "lost"'):
        model(images, mode='lost')


# -------------------------------------------------------------- training


@pytest.mark.parametrize('student_loss', [False, True])
def test_loss_goes_down(images, labels, student_loss):
    model = algorithm(calculate_student_loss=student_loss)
    wrapper = optimizer(model, lr=0.1)
    samples = labeled(labels) if student_loss else None
    logs = [numbers(step(model, images, wrapper, samples)) for _ in range(30)]
    assert logs[-1]['loss'] < 0.6 * logs[0]['loss']
    assert logs[-1]['distill.loss_kl'] < 0.5 * logs[0]['distill.loss_kl']


def records(model):
    distiller = model.distiller
    return [
        recorder.records
        for recorders in (
            distiller.student_recorders,
            distiller.teacher_recorders,
        )
        for recorder in recorders.values()
    ]


def test_buffers_are_empty_after_a_step(images):
    model = algorithm()
    step(model, images)
    assert records(model) == [[]] * 6


def test_buffers_are_empty_after_an_exception(images):
    model = algorithm()
    # The recorded layers of the student run, those after them do not.
    model.student.backbone.layer1.register_forward_hook(
        lambda *_: (_ for _ in ()).throw(KeyError('out of memory'))
    )
    with pytest.raises(KeyError):
        model(images, mode='loss')
    assert records(model) == [[]] * 6
    assert not any(
        r.recording
        for r in (
            *model.distiller.student_recorders.values(),
            *model.distiller.teacher_recorders.values(),
        )
    )


def test_hooks_go_with_the_model(images):
    model = algorithm()
    step(model, images)
    student, frozen = model.student, model.teacher
    assert hook_count(student) == hook_count(frozen) == 3
    del model
    gc.collect()
    assert hook_count(student) == hook_count(frozen) == 0


def test_synchronised_batch_norm_is_recorded(images):
    """The engine puts it in after the model, with its hooks, is built."""
    model = algorithm()
    model.student = nn.SyncBatchNorm.convert_sync_batchnorm(model.student)
    assert isinstance(model.student.backbone.bn1, nn.SyncBatchNorm)
    model.train()
    assert len(model.student.backbone.bn1._forward_hooks) == 1
    assert hook_count(model.student) == 3


@pytest.mark.parametrize('copier', [copy.deepcopy, 'pickle'])
def test_a_copy_after_a_step_trains_itself(images, copier):
    model = algorithm()
    step(model, images)
    if copier == 'pickle':
        other = pickle.loads(pickle.dumps(model))
    else:
        other = copier(model)
    assert other.teacher is not model.teacher
    before = copy.deepcopy(model.state_dict())
    # It would not notice its own weights if it recorded the other model.
    nn.init.zeros_(other.student.head.fc.weight)
    nn.init.zeros_(other.student.head.fc.bias)
    terms = numbers(step(other, images))
    with torch.no_grad():
        flat = torch.zeros(8, CLASSES)
        target = model.distiller.connectors['mask'](other.teacher(images))
        expected = KLDivergence(tau=4.0)(flat, target)
    assert terms['distill.loss_kl'] == pytest.approx(expected.item())
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert other.student.head.fc.weight.abs().sum() > 0
    assert not any(m.training for m in other.teacher.modules())
    assert (
        numbers(step(model, images))['distill.loss_kl']
        != terms['distill.loss_kl']
    )


def test_moving_average_after_a_step(images):
    model = algorithm()
    step(model, images)
    average = ExponentialMovingAverage(model, momentum=0.5)
    average.update_parameters(model)
    name = 'student.head.fc.weight'
    before = model.state_dict()[name].clone()
    step(model, images)
    average.update_parameters(model)
    after = model.state_dict()[name]
    assert_close(average.module.state_dict()[name], (before + after) / 2)
    assert not any('teacher' in key for key in average.state_dict())


def test_state_dict_round_trip(images):
    model = algorithm(seed=1)
    step(model, images)
    other = algorithm(seed=2)
    other.load_state_dict(model.state_dict())
    assert numbers(other(images, mode='loss')) == numbers(
        model(images, mode='loss')
    )


def test_connectors_are_saved_and_trained(images):
    distiller = kd_distiller()
    distiller['connectors'] = dict(
        map=dict(type='LinearConnector', in_channels=5, out_channels=5)
    )
    distiller['loss_forward_mappings']['loss_kl']['preds_S'].update(
        connector='map'
    )
    model = algorithm(distiller=distiller)
    name = 'distiller.connectors.map.linear.weight'
    before = model.state_dict()[name].clone()
    step(model, images)
    assert not torch.equal(model.state_dict()[name], before)


# --------------------------------------------------------------- platform


def test_channels_last_gives_the_same(images):
    losses, gradients = [], []
    for channels_last in (False, True):
        model = algorithm(
            channels_last=channels_last,
            # Of narrower ones oneDNN spoils the memory (docs/support.md).
            student=architecture(width=16, stages=2),
            teacher=teacher(width=16, stages=2),
        )
        for net in (model.student, model.teacher):
            weight = net.backbone.layer1[0].conv1.weight
            assert (
                weight.is_contiguous(memory_format=torch.channels_last)
                is channels_last
            )
        terms = model(images, mode='loss')
        sum(terms.values()).backward()
        losses.append(numbers(terms))
        gradients.append({k: p.grad for k, p in model.named_parameters()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_autocast(images):
    """mmengine's AmpOptimWrapper refuses the CPU, hence by hand."""
    model = algorithm()
    exact = numbers(model(images, mode='loss'))
    with torch.autocast('cpu', torch.bfloat16):
        assert model.student(images).dtype == torch.bfloat16
        terms = model(images, mode='loss')
    assert {t.dtype for t in terms.values()} == {torch.float32}
    assert numbers(terms) == pytest.approx(exact, rel=0.1)
    sum(terms.values()).backward()
    for parameter in model.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_compiled_step_gives_the_same(images):
    logs = []
    for compiled in (False, True):
        model = algorithm()
        wrapper = optimizer(model)
        run = model.train_step
        if compiled:
            torch._dynamo.reset()
            run = torch.compile(run, backend='eager')
        data = dict(inputs=images, data_samples=None)
        logs.append([numbers(run(data, wrapper)) for _ in range(3)])
        assert records(model) == [[]] * 6
    for found, expected in zip(*logs, strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    assert logs[0][0]['loss'] != logs[0][2]['loss']


def test_batch_of_one(images):
    terms = numbers(algorithm()(images[:1], mode='loss'))
    assert terms['distill.loss_relation'] == 0
    assert all(0 <= value < 1e3 for value in terms.values())


# ------------------------------------------------------------------ rest


def test_the_run_knows_its_model():
    model = algorithm()
    assert running_algorithm() is model
    del model
    gc.collect()
    assert running_algorithm() is None


def test_built_by_bare_name_in_any_scope():
    for scope in (None, 'mmpretrain'):
        with DefaultScope.overwrite_default_scope(scope):
            model = algorithm(distiller=eeikd_distiller())
        assert type(model).__module__.startswith('mmkd_plugin')
