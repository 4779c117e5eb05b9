"""Validation and test of several students."""

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmpretrain.evaluation import Accuracy
from toy_runs import (
    Preset,
    build_runner,
    classifier,
    loader,
    make_dataset,
)
from toy_students import online

from mmkd_plugin.engine.loops import StudentsEvaluator
from mmkd_plugin.engine.loops.students_evaluator import STUDENT_METRICS

TOP1 = dict(type='Accuracy', topk=(1, 2))


class Calls(Hook):
    """Notes which hooks are called, and with what."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.names = []
        self.outputs = []
        self.metrics = None

    def before_val(self, runner):
        self.names.append('before_val')

    def before_val_epoch(self, runner):
        self.names.append('before_val_epoch')

    def before_val_iter(self, runner, batch_idx, data_batch):
        self.names.append(f'before {batch_idx}')

    def after_val_iter(self, runner, batch_idx, data_batch, outputs):
        self.names.append(f'after {batch_idx}')
        self.outputs += outputs

    def after_val_epoch(self, runner, metrics):
        self.names.append('after_val_epoch')
        self.metrics = metrics

    def after_val(self, runner):
        self.names.append('after_val')

    after_test_iter = after_val_iter

    def after_test_epoch(self, runner, metrics):
        self.names.append('after_test_epoch')
        self.metrics = metrics


def runner_of(tmp_path, model, hooks=(), stage='val', **loop):
    data = loader(make_dataset(10))
    cfg = dict(type=f'Students{stage.capitalize()}Loop', **loop)
    kwargs = {
        f'{stage}_dataloader': data,
        f'{stage}_evaluator': TOP1,
        f'{stage}_cfg': cfg,
    }
    return build_runner(
        tmp_path,
        model,
        None,
        hooks,
        train_cfg=None,
        optim_wrapper=None,
        **kwargs,
    )


def expected_metrics(model, topk=(1, 2)):
    """Accuracy of each student, of all images at once."""
    dataset = make_dataset(10)
    data = model.data_preprocessor(dataset.__getitems__(range(10)))
    labels = data['data_samples'].gt_label
    found = {}
    model.eval()
    for name, student in model.students.items():
        with torch.no_grad():
            logits = student(data['inputs'], mode='tensor')
        found[name] = {
            f'accuracy/top{k}': Accuracy.calculate(logits, labels, topk=[k])[
                0
            ][0].item()
            for k in topk
        }
    return found


def different_students(**options):
    """Students of which ``b`` is better than ``a``, and ``c`` worst."""
    # As many channels as images, so that any answers are possible.
    model = online(widths=(10, 10, 10), **options)
    dataset = make_dataset(10)
    data = model.data_preprocessor(dataset.__getitems__(range(10)))
    model.eval()
    with torch.no_grad():
        for name, hits in (('a', 4), ('b', 7), ('c', 1)):
            student = model.students[name]
            features = student.extract_feat(data['inputs'])[-1].double()
            features = torch.cat([features, torch.ones(10, 1)], 1)
            answers = data['data_samples'].gt_label.clone()
            answers[hits:] = (answers[hits:] + 1) % 3
            wanted = torch.nn.functional.one_hot(answers, 3).double()
            # No ties.
            wanted += torch.tensor([0.3, 0.2, 0.1])
            # The linear layer that comes nearest to these answers.
            solved = torch.linalg.lstsq(
                features, wanted, driver='gelsd'
            ).solution.T
            student.head.fc.weight.copy_(solved[:, :-1])
            student.head.fc.bias.copy_(solved[:, -1])
    return model


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_metrics_of_all_and_of_the_best(tmp_path, stage):
    model, calls = different_students(), Calls()
    runner = runner_of(tmp_path, model, [calls], stage)
    metrics = dict(getattr(runner, stage)())
    assert calls.metrics == metrics
    expected = expected_metrics(model)
    first = [m['accuracy/top1'] for m in expected.values()]
    assert first == [40.0, 70.0, 10.0]
    best = 'b'
    # What save_best='auto' takes.
    assert next(iter(metrics)) == 'accuracy/top1'
    for name, values in expected.items():
        for key, value in values.items():
            assert metrics.pop(f'{name}/{key}') == pytest.approx(value)
    # What is left is the best one's, top-2 as well.
    assert metrics == pytest.approx(expected[best])
    assert runner.message_hub.get_info(STUDENT_METRICS) == dict(
        metric='accuracy/top1',
        best=best,
        values=pytest.approx(dict(zip('abc', first, strict=True))),
        iteration=0,
    )


def test_hooks_are_called_once_with_the_answers_of_the_main_student(tmp_path):
    model, calls = different_students(main_student='c'), Calls()
    runner_of(tmp_path, model, [calls]).val()
    assert calls.names == [
        'before_val',
        'before_val_epoch',
        *('before 0', 'after 0', 'before 1', 'after 1'),
        *('before 2', 'after 2'),
        'after_val_epoch',
        'after_val',
    ]
    assert len(calls.outputs) == 10
    hits = [s.pred_label.item() == s.gt_label.item() for s in calls.outputs]
    assert 10 * sum(hits) == pytest.approx(
        expected_metrics(model)['c']['accuracy/top1']
    )


def test_lowest_may_be_best(tmp_path):
    model = different_students()
    runner = runner_of(tmp_path, model, metric='accuracy/top2', rule='less')
    metrics = runner.val()
    expected = expected_metrics(model)
    second = {n: m['accuracy/top2'] for n, m in expected.items()}
    best = min(second, key=second.get)
    assert metrics['accuracy/top1'] == pytest.approx(
        expected[best]['accuracy/top1']
    )


def test_first_of_equals_and_a_metric_that_is_not_there():
    def evaluator(value):
        return Evaluator(Preset([dict(value)] * 2))

    both = StudentsEvaluator(
        dict(x=evaluator(dict(f1=3.0)), y=evaluator(dict(f1=3.0))),
        metric='f1',
    )
    both.process(dict(x=[], y=[]))
    assert both.evaluate(1) == {'x/f1': 3.0, 'y/f1': 3.0, 'f1': 3.0}
    wrong = StudentsEvaluator(dict(x=evaluator(dict(f1=3.0))), metric='f')
    wrong.process(dict(x=[]))
    with pytest.raises(ValueError, match=r"no metric 'f' .* f1"):
        wrong.evaluate(1)
    with pytest.raises(ValueError, match=r'rule must be .* but got .most'):
        StudentsEvaluator({}, rule='most')


def test_built_evaluator_is_not_shared(tmp_path):
    model = different_students()
    runner = runner_of(tmp_path, model)
    runner._val_evaluator = Evaluator(METRICS.build(TOP1))
    found = runner.val()
    for name, metrics in expected_metrics(model).items():
        assert found[f'{name}/accuracy/top1'] == pytest.approx(
            metrics['accuracy/top1']
        )


def test_classes_reach_the_metrics():
    class Needs(Preset):
        pass

    metric = Needs([])
    evaluator = StudentsEvaluator(dict(x=Evaluator(metric)))
    evaluator.dataset_meta = dict(classes=['a'])
    assert metric.dataset_meta == dict(classes=['a'])


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_models_that_it_is_not_for(tmp_path, stage):
    runner = runner_of(tmp_path, classifier(), stage=stage)
    with pytest.raises(ValueError, match=r'several .* got ImageClassifier'):
        getattr(runner, stage)()


def test_mixed_precision(tmp_path):
    model = different_students()
    runner = runner_of(tmp_path, model, fp16=True)
    seen = []
    hook = model.students.b.head.fc.register_forward_hook(
        lambda module, args, output: seen.append(output.dtype)
    )
    runner.val()
    hook.remove()
    assert set(seen) == {torch.bfloat16}
