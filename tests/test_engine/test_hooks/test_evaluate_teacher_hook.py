"""The teacher, measured once before the first iteration."""

from functools import partial

import pytest
import torch
from mmengine.registry import HOOKS, MODELS
from torch.testing import assert_close
from toy_runs import (
    PREPROCESSOR,
    build_runner,
    classifier,
    distillation,
    loader,
    make_dataset,
    make_images,
    save_teacher,
)
from toys import kd_distiller

import mmkd_plugin.engine.hooks.evaluate_teacher_hook as module
from mmkd_plugin.engine.hooks import EvaluateTeacherHook
from mmkd_plugin.engine.hooks.evaluate_teacher_hook import TEACHER_METRICS

# Statistics of one of several teachers.
OWN = dict(mean=[20.0, 120.0, 230.0], std=[20.0, 60.0, 90.0])


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(
        module, 'print_log', lambda text, _: lines.append(text)
    )
    return lines


def build(
    tmp_path, model=None, evaluator=None, val=True, labels=False, **kwargs
):
    if model is None:
        model = distillation(save_teacher(tmp_path / 'teacher.pth'))
    if val:
        kwargs.update(
            val_dataloader=loader(make_dataset(14, seed=3), batch_size=5),
            val_evaluator=evaluator or dict(type='Accuracy', topk=(1, 2)),
            val_cfg=dict(),
        )
    return build_runner(
        tmp_path / 'run',
        model,
        loader(make_dataset(12, labels=labels)),
        [dict(type='EvaluateTeacherHook')],
        **kwargs,
    )


def accuracies(path, mean=(120.5,), std=(60.0,)):
    """Top 1 and top 2 of the teacher, image by image, in per cent."""
    teacher = MODELS.build(classifier())
    teacher.load_state_dict(torch.load(path))
    teacher.eval()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    hits = [0, 0]
    for index, image in enumerate(make_images(14, seed=3)):
        x = (torch.tensor(image).permute(2, 0, 1).float() - mean) / std
        order = teacher(x[None])[0].argsort(descending=True).tolist()
        hits[0] += order[0] == index % 3
        hits[1] += index % 3 in order[:2]
    return [100 * count / 14 for count in hits]


def teacher_calls(model):
    calls = []
    model.teacher.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_registered():
    assert HOOKS.get('EvaluateTeacherHook') is EvaluateTeacherHook


def test_metrics_are_those_of_the_teacher(tmp_path, said):
    runner = build(tmp_path)
    runner.train()
    top1, top2 = accuracies(tmp_path / 'teacher.pth')
    assert 0 < top1 < top2 < 100
    assert runner.message_hub.get_info(TEACHER_METRICS) == {
        'accuracy/top1': pytest.approx(top1),
        'accuracy/top2': pytest.approx(top2),
    }
    assert said == [
        f'teacher on the validation set: accuracy/top1: {top1:.4f}, '
        f'accuracy/top2: {top2:.4f}'
    ]


def several(tmp_path):
    """Config of two teachers, the second with statistics of its own."""
    paths = {
        name: save_teacher(tmp_path / f'{name}.pth', seed=seed)
        for seed, name in enumerate(('one', 'two'))
    }
    teachers = {
        name: dict(model=classifier(), ckpt=path)
        for name, path in paths.items()
    }
    teachers['two'].update(OWN)
    distiller = kd_distiller()
    distiller['teacher_recorders'] = {
        name: dict(type='ModuleOutputs', source=f'{name}.head.fc')
        for name in paths
    }
    distiller['connectors'] = dict(mean=dict(type='AverageProbabilities'))
    distiller['loss_forward_mappings']['loss_kl']['preds_T'] = dict(
        from_student=False,
        recorder='one',
        connector='mean',
        connector_inputs=dict(two=dict(from_student=False, recorder='two')),
    )
    return {
        'type': 'MultiTeacherDistill',
        'teachers': teachers,
        'student': classifier(2),
        'calculate_student_loss': False,
        'distiller': distiller,
        'data_preprocessor': PREPROCESSOR,
    }


def test_each_of_several_teachers_is_measured_once(tmp_path, said):
    saved = dict(
        logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
    )
    model = several(tmp_path)
    runner = build(tmp_path, model, epochs=1, default_hooks=saved)
    calls, seen = [], {}

    def look(module, args, kwargs, name):
        calls.append(name)
        seen.setdefault(name, kwargs.get('inputs'))

    for name, net in runner.model.teachers.items():
        net.register_forward_pre_hook(
            partial(look, name=name), with_kwargs=True
        )
    runner.train()
    # 14 images in batches of 5, one teacher after the other; 3 iterations.
    assert calls == ['one'] * 3 + ['two'] * 3 + ['one', 'two'] * 3
    expected = {
        name: dict(zip(['accuracy/top1', 'accuracy/top2'], top, strict=True))
        for name, top in (
            ('one', accuracies(tmp_path / 'one.pth')),
            ('two', accuracies(tmp_path / 'two.pth', **OWN)),
        )
    }
    # Its accuracy is the same for other statistics, what it sees is not.
    pixels = torch.tensor(make_images(14, seed=3)[:5]).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in OWN.values())
    assert_close(seen['two'], (pixels - mean) / std)
    assert_close(seen['one'], (pixels - 120.5) / 60)
    metrics = runner.message_hub.get_info(TEACHER_METRICS)
    assert list(metrics) == ['one', 'two']
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(values)
    assert [line.split(':')[0] for line in said] == [
        "teacher 'one' on the validation set",
        "teacher 'two' on the validation set",
    ]
    runner = build(
        tmp_path,
        model,
        resume=True,
        load_from=str(tmp_path / 'run' / 'epoch_1.pth'),
        default_hooks=saved,
    )
    runner.train()
    assert len(said) == 2
    assert runner.message_hub.get_info(TEACHER_METRICS) == metrics


def test_before_the_first_iteration_and_only_then(tmp_path):
    runner = build(tmp_path)
    calls = teacher_calls(runner.model)
    order = []

    class Order(EvaluateTeacherHook):
        priority = 'VERY_LOW'

        def before_train(self, runner):
            order.append(('before', len(calls)))

        def after_train(self, runner):
            order.append(('after', len(calls)))

    runner.register_hook(Order())
    runner.train()
    # 14 images in batches of 5, then 2 epochs of 3 iterations
    assert order == [('before', 3), ('after', 3 + 6)]
    assert not runner.model.teacher.training
    assert all(p.grad is None for p in runner.model.teacher.parameters())


def test_a_resumed_run_does_not_measure_again(tmp_path, said):
    saved = dict(
        logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
    )
    first = build(tmp_path, epochs=1, default_hooks=saved)
    first.train()
    metrics = first.message_hub.get_info(TEACHER_METRICS)
    runner = build(
        tmp_path,
        resume=True,
        load_from=str(tmp_path / 'run' / 'epoch_1.pth'),
        default_hooks=saved,
    )
    calls = teacher_calls(runner.model)
    runner.train()
    assert len(calls) == 3
    assert len(said) == 1
    assert runner.message_hub.get_info(TEACHER_METRICS) == metrics


def test_metrics_that_are_no_numbers_are_left_out(tmp_path, said):
    evaluator = [
        dict(type='ConfusionMatrix'),
        dict(type='SingleLabelMetric', average=None, items=('recall',)),
        dict(type='Accuracy'),
    ]
    runner = build(tmp_path, evaluator=evaluator)
    runner.train()
    assert list(runner.message_hub.get_info(TEACHER_METRICS)) == [
        'accuracy/top1'
    ]
    assert len(said) == 1


def test_without_a_validation_set(tmp_path, said):
    runner = build(tmp_path, val=False)
    runner.train()
    assert runner.message_hub.get_info(TEACHER_METRICS) is None
    assert not said


def test_without_a_teacher(tmp_path, said):
    runner = build(
        tmp_path,
        classifier(data_preprocessor=dict(type='BatchAugDataPreprocessor')),
        labels=True,
    )
    runner.train()
    assert runner.message_hub.get_info(TEACHER_METRICS) is None
    assert not said
