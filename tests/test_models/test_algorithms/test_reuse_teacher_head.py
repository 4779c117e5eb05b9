"""SimKD: the student's head is the teacher's, frozen."""

import copy

import pytest
import torch
from ddp import run_processes
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from toy_runs import (
    build_runner,
    distillation,
    loader,
    make_dataset,
    save_teacher,
)
from toys import CLASSES, architecture, kd_distiller, sources, teacher

from mmkd_plugin.models import SingleTeacherDistill

HEAD = ('student.head.fc.weight', 'student.head.fc.bias')


def student(width=2, classes=CLASSES, out_channels=4):
    """Get the config of a student with a projector to the teacher's width."""
    config = architecture(width, classes=classes)
    config['neck'] = dict(
        type='SimKDNeck', in_channels=width, out_channels=out_channels
    )
    config['head']['in_channels'] = out_channels
    return config


def distiller():
    """Get the config of SimKD's only loss."""
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            map=dict(type='ModuleOutputs', source='neck.projector')
        ),
        teacher_recorders=dict(
            map=dict(type='ModuleOutputs', source='backbone')
        ),
        distill_losses=dict(loss_simkd=dict(type='MSELoss')),
        loss_forward_mappings=dict(
            loss_simkd=dict(
                preds_S=dict(from_student=True, recorder='map'),
                preds_T=dict(from_student=False, recorder='map', data_idx=-1),
            )
        ),
    )


def algorithm(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = dict(
            student=student(),
            teacher=options.pop('teacher', None) or teacher(),
            distiller=distiller(),
            calculate_student_loss=False,
            reuse_teacher_head=True,
        )
        return SingleTeacherDistill(**{**config, **options}).train()


def is_the_teachers(model):
    ours, theirs = (
        net.head.state_dict() for net in (model.student, model.teacher)
    )
    assert len(theirs) == 2
    return all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.fixture
def images(seed):
    return torch.randn(8, 3, 8, 8)


def step(model, images, samples=None):
    optimizer = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    )
    return model.train_step(
        dict(inputs=images, data_samples=samples), optimizer
    )


def test_head_is_the_teachers_and_frozen(images):
    model = algorithm()
    assert is_the_teachers(model)
    # Not shared: what moves the student's must not move the teacher's.
    assert (
        model.student.head.fc.weight.data_ptr()
        != model.teacher.head.fc.weight.data_ptr()
    )
    before = copy.deepcopy(model.state_dict())
    values = [step(model, images)['loss'].item() for _ in range(5)]
    assert is_the_teachers(model)
    assert values[-1] < values[0]
    trained = [
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    ]
    assert 'student.neck.projector.0.weight' in trained
    assert 'student.backbone.conv1.weight' in trained
    assert not set(HEAD) & set(trained)


def test_head_stays_in_eval_mode():
    model = algorithm()
    model.student.head.drop = torch.nn.Dropout()
    for mode in (True, False, True):
        model.train(mode)
        assert model.student.neck.training is mode
        assert not any(m.training for m in model.student.head.modules())


def test_loss_and_answer_are_those_of_the_formula(images):
    model = algorithm()
    terms = model(images, mode='loss')
    assert set(terms) == {'distill.loss_simkd'}
    model.eval()
    with torch.no_grad():
        feature = model.teacher.backbone(images)[-1]
        projected = model.student.neck.projector(
            model.student.backbone(images)[-1]
        )
        fc = model.teacher.head.fc
        logits = projected.mean((2, 3)) @ fc.weight.t() + fc.bias
        torch.testing.assert_close(model(images), logits)
        gap = (projected - feature).square().mean()
        torch.testing.assert_close(
            model(images, mode='loss')['distill.loss_simkd'], gap
        )


def test_cross_entropy_goes_through_the_frozen_head(images):
    model = algorithm(calculate_student_loss=True)
    labels = torch.arange(8) % CLASSES
    samples = [DataSample().set_gt_label(y) for y in labels.tolist()]
    log = step(model, images, samples)
    assert log['student.loss'] > 0
    assert is_the_teachers(model)
    alone = algorithm(calculate_student_loss=True)
    terms = alone(images, samples, mode='loss')
    terms['student.loss'].backward()
    grads = {name: p.grad for name, p in alone.named_parameters()}
    assert grads['student.neck.projector.0.weight'].abs().sum() > 0
    assert all(grads[name] is None for name in HEAD)


def test_init_weights_and_checkpoint_keep_it(tmp_path):
    torch.manual_seed(3)
    saved = MODELS.build(student())
    path = str(tmp_path / 'student.pth')
    torch.save(saved.state_dict(), path)
    model = algorithm(student_ckpt=path)
    for _ in range(2):
        assert is_the_teachers(model)
        assert not model.student.head.fc.weight.requires_grad
        assert torch.equal(
            model.student.neck.projector[0].weight,
            saved.neck.projector[0].weight,
        )
        model.init_weights()


@pytest.mark.parametrize('loads', ['torch', 'mmengine'])
def test_a_checkpoint_of_another_head(loads, images):
    """Such as one that was trained without the option."""
    other = algorithm(seed=4, reuse_teacher_head=False)
    step(other, images)
    assert not is_the_teachers(other)
    state = copy.deepcopy(other.state_dict())
    model = algorithm()
    if loads == 'torch':
        model.load_state_dict(state)
    else:
        from mmengine.runner.checkpoint import load_state_dict

        load_state_dict(model, state, strict=True)
    assert is_the_teachers(model)
    name = 'student.backbone.conv1.weight'
    assert torch.equal(model.state_dict()[name], state[name])
    # What was loaded is left alone.
    assert torch.equal(state[HEAD[0]], other.state_dict()[HEAD[0]])


def test_copies_and_averages(images):
    model = algorithm()
    step(model, images)
    assert is_the_teachers(copy.deepcopy(model))
    average = ExponentialMovingAverage(model, momentum=0.3)
    for _ in range(2):
        step(model, images)
        average.update_parameters(model)
    assert is_the_teachers(average.module)


def test_a_resumed_run(tmp_path):
    """As trained in one go, and with the teacher's head all along."""
    ckpt = save_teacher(tmp_path / 'teacher.pth')
    config = distillation(
        ckpt,
        student=student(classes=3),
        distiller=distiller(),
        reuse_teacher_head=True,
    )

    def run(name, epochs, **kwargs):
        runner = build_runner(
            tmp_path / name,
            config,
            loader(make_dataset()),
            epochs=epochs,
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1),
                logger=None,
            ),
            **kwargs,
        )
        runner.train()
        assert is_the_teachers(runner.model)
        assert not runner.model.student.head.training
        return runner.model.state_dict()

    whole = run('whole', 3)
    run('part', 2)
    resumed = run(
        'part',
        3,
        resume=True,
        load_from=str(tmp_path / 'part' / 'epoch_2.pth'),
    )
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    theirs = torch.load(ckpt)
    assert torch.equal(resumed[HEAD[0]], theirs['head.fc.weight'])


def two_steps(rank):
    """What is trained after two steps in two processes."""
    model = algorithm()
    wrapped = MMDistributedDataParallel(model, find_unused_parameters=False)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(2):
        step(wrapped, torch.randn(4, 3, 8, 8, generator=generator))
    return dict(
        reused=is_the_teachers(model),
        weights={k: p.detach() for k, p in model.named_parameters()},
    )


def test_two_processes(tmp_path):
    one, two = run_processes(two_steps, tmp_path)
    assert one['reused']
    assert two['reused']
    torch.testing.assert_close(one['weights'], two['weights'], rtol=0, atol=0)
    start = dict(algorithm().named_parameters())
    name = 'student.neck.projector.0.weight'
    assert not torch.equal(one['weights'][name], start[name])


def test_teachers_map_is_pooled_to_a_smaller_one(images):
    """A PoolConnector on the teacher's side, where the student is coarser."""
    config = distiller()
    config['connectors'] = dict(pool=dict(type='PoolConnector', size=4))
    mapping = config['loss_forward_mappings']['loss_simkd']
    mapping['preds_T'].update(connector='pool')
    coarse = student()
    coarse['backbone'].update(strides=(2,))
    model = algorithm(student=coarse, distiller=config).eval()
    terms = model(images, mode='loss')
    with torch.no_grad():
        feature = model.teacher.backbone(images)[-1]
        assert feature.shape[2:] == (8, 8)
        cells = feature.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
        projected = model.student.neck.projector(
            model.student.backbone(images)[-1]
        )
    torch.testing.assert_close(
        terms['distill.loss_simkd'], (projected - cells).square().mean()
    )


class Headless(torch.nn.Module):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(student=student(out_channels=6)),
            r"head must be like the teacher's, .*fc.weight': \(5, 4\).*, "
            r"but got .*fc.weight': \(5, 6\).*\. A SimKDNeck",
        ),
        (
            dict(student=Headless()),
            'the student, a Headless, has no head with weights',
        ),
        (
            dict(teacher=Headless()),
            'the teacher, a Headless, has no head with weights',
        ),
        (dict(reuse_teacher_head=1), 'reuse_teacher_head must .* got 1'),
    ],
)
def test_a_head_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        algorithm(**options)


def test_without_the_option_the_head_is_the_students(images):
    model = algorithm(
        reuse_teacher_head=False,
        distiller=kd_distiller(),
    )
    assert not is_the_teachers(model)
    before = model.student.head.fc.weight.clone()
    step(model, images)
    assert not torch.equal(model.student.head.fc.weight, before)


# ------------------------------------------- a student that is not trained


def probe(**options):
    """A connector on the teacher that learns its logits again."""
    config = kd_distiller()
    config['student_recorders'] = {}
    config['connectors'] = dict(
        probe=dict(type='LinearConnector', in_channels=4, out_channels=CLASSES)
    )
    config['teacher_recorders']['back'] = dict(
        type='ModuleInputs', source='head.fc'
    )
    source = dict(from_student=False, recorder='back', data_idx=0)
    config['loss_forward_mappings'] = dict(
        loss_kl=dict(
            sources('logits'), preds_S=dict(source, connector='probe')
        )
    )
    return algorithm(
        student=architecture(),
        distiller=config,
        reuse_teacher_head=False,
        student_trainable=False,
        **options,
    )


def test_only_connectors_are_trained(images):
    model = probe()
    before = copy.deepcopy(model.student.state_dict())
    values = [step(model, images)['loss'].item() for _ in range(5)]
    assert values[-1] < values[0]
    torch.testing.assert_close(
        model.student.state_dict(), before, rtol=0, atol=0
    )
    assert not any(m.training for m in model.student.modules())
    assert model.distiller.training


def test_nothing_to_train():
    with pytest.raises(ValueError, match='nothing is left to train'):
        algorithm(student_trainable=False)
    with pytest.raises(ValueError, match='set calculate_student_loss=False'):
        probe(calculate_student_loss=True)
    with pytest.raises(ValueError, match=r'trainable must .* got 0'):
        algorithm(student_trainable=0)
