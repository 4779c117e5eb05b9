import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import distributed, multiprocessing, nn
from torch.utils.data import DataLoader, SequentialSampler

from mmkd_plugin.datasets import ArrayImages, array_collate
from mmkd_plugin.engine.hooks import DistillReportHook
from mmkd_plugin.engine.report import parse_report

CLASSES = ['cat', 'dog', 'emu']
TRUE = [0, 0, 1, 1, 2]
PREDICTED = [0, 1, 1, 1, 0]
CONFUSION = [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
ITERATIONS = [3, 6, 9, 12]


def predictions(indices):
    samples = []
    for index in indices:
        sample = DataSample().set_gt_label(TRUE[index])
        sample.set_pred_score(torch.eye(3)[PREDICTED[index]])
        samples.append(sample.set_pred_label(PREDICTED[index]))
    return samples


class ToyDistill(BaseModel):
    """Two parameters as student, three as teacher; its answers are fixed."""

    def __init__(self, has_teacher=True):
        super().__init__()
        self.student = nn.Linear(1, 1)
        nn.init.ones_(self.student.weight)
        nn.init.zeros_(self.student.bias)
        if has_teacher:
            self.teacher = nn.Linear(2, 1)
            self.teacher.requires_grad_(False)

    def forward(self, inputs, sample_idx, gt_label=None, mode='tensor'):
        if mode != 'loss':
            return predictions(sample_idx.tolist())
        out = self.student(inputs.float().mean((1, 2, 3))[:, None] / 255)
        return {
            'distill.loss_kl': (out**2).mean(),
            'distill.loss_feat': out.abs().mean(),
            'distill.accuracy': torch.tensor(0.5),
        }


class WeightEvaluator(Evaluator):
    """Its metric changes in training, and the other one is NaN."""

    def __init__(self, model, name):
        super().__init__([])
        self.student, self.name = model.student, name

    def process(self, data_samples, data_batch=None):
        pass

    def evaluate(self, size):
        weight = self.student.weight.item()
        return {
            self.name: 100 * (1 - weight),
            'broken': float('nan'),
            'per_class': torch.zeros(3),
        }


@HOOKS.register_module()
class KillHook(Hook):
    """Ends a run the hard way."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


class MosaicScalars(Hook):
    """Logs what a generator's hook does."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.message_hub.update_scalars(
            {
                'train/mosaic.loss_d': 2.0,
                'train/mosaic.confidence': 0.5,
                'train/mosaic.class_entropy': float(runner.iter + 1),
            }
        )


def loader():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * 20
    images = np.broadcast_to(images, (5, 4, 4, 3)).copy()
    dataset = ArrayImages(images, TRUE, CLASSES)
    return DataLoader(
        dataset,
        batch_size=2,
        sampler=SequentialSampler(dataset),
        collate_fn=array_collate,
    )


def build(
    work_dir,
    *,
    kill_at=None,
    validate=True,
    has_teacher=True,
    name='accuracy/top1',
    checkpoint=1,
    hook=None,
    **kwargs,
):
    """Four epochs of three iterations."""
    model = ToyDistill(has_teacher)
    if validate:
        kwargs.update(
            val_dataloader=loader(),
            val_cfg=dict(),
            val_evaluator=WeightEvaluator(model, name),
        )
    options = dict(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=dict(type='MultiStepLR', milestones=[2]),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=2),
            checkpoint=dict(type='CheckpointHook', interval=checkpoint),
        ),
        custom_hooks=[
            hook or dict(type='DistillReportHook'),
            dict(type='KillHook', iteration=kill_at),
        ],
        cfg=dict(trained_on='<glyphs>'),
    )
    # Runners of one name share a message hub.
    build.count += 1
    return Runner(
        experiment_name=f'distill_report{build.count}', **{**options, **kwargs}
    )


build.count = 0


def read(work_dir):
    return parse_report((work_dir / 'report' / 'report.json').read_text())


def kill(work_dir, kill_at, **kwargs):
    with pytest.raises(KeyboardInterrupt):
        build(work_dir, kill_at=kill_at, **kwargs).train()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted run."""
    work_dir = tmp_path_factory.mktemp('runs') / 'whole'
    runner = build(work_dir)
    runner.message_hub.update_info('teacher_metrics', {'accuracy/top1': 99.6})
    runner.train()
    hub = runner.message_hub.log_scalars
    losses = hub['train/distill.loss_kl'].data[0].tolist()
    return SimpleNamespace(
        work_dir=work_dir, report=read(work_dir), losses=losses
    )


def test_registered():
    assert HOOKS.get('DistillReportHook') is DistillReportHook


class TestWholeRun:
    def test_head(self, whole):
        report = whole.report
        assert report['run_name'] == 'whole'
        assert report['trained_on'] == '<glyphs>'
        assert (report['epochs'], report['iterations']) == (4, 12)
        assert report['teacher'] == dict(
            architecture='Linear',
            parameters=3,
            metrics={'accuracy/top1': 99.6},
        )
        assert report['student']['parameters'] == 2

    def test_confusion(self, whole):
        assert whole.report['confusion'] == CONFUSION
        assert whole.report['classes'] == CLASSES

    def test_training_curves(self, whole):
        curves = whole.report['curves']
        assert list(curves) == [
            'train/loss',
            'train/distill.loss_kl',
            'train/distill.loss_feat',
            'train/distill.accuracy',
            'train/lr',
            'val/accuracy/top1',
            'val/broken',
        ]
        steps = [2, 4, 6, 8, 10, 12]
        assert len(whole.losses) == 12
        pairs = np.reshape(whole.losses, (6, 2)).mean(1)
        assert curves['train/distill.loss_kl'] == dict(
            iteration=steps, value=pytest.approx(pairs.tolist())
        )
        assert curves['train/distill.accuracy']['value'] == [0.5] * 6
        assert curves['train/lr'] == dict(
            iteration=steps,
            value=pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        )

    def test_validation(self, whole):
        curves, student = whole.report['curves'], whole.report['student']
        curve = curves['val/accuracy/top1']
        assert curve['iteration'] == ITERATIONS
        assert curve['epoch'] == [1, 2, 3, 4]
        assert curve['value'] == sorted(curve['value'])
        assert curves['val/broken']['value'] == [None] * 4
        assert student['last']['accuracy/top1'] == curve['value'][-1]
        assert student['best_epoch'] == 4

    def test_page(self, whole):
        page = (whole.work_dir / 'report' / 'index.html').read_text()
        assert '<h1>whole</h1>' in page
        assert '&lt;glyphs&gt;' in page and '<glyphs>' not in page
        assert '3 of 5 images right' in page
        (log,) = whole.work_dir.glob('*/*.log')
        path = whole.work_dir / 'report' / 'index.html'
        assert f'The report is at {path}\n' in log.read_text()


class TestResume:
    def check(self, whole, work_dir):
        report = read(work_dir)
        for part in ('curves', 'confusion', 'epochs', 'iterations'):
            assert report[part] == whole.report[part], part
        assert report['student'] == whole.report['student']

    def test_killed_after_the_validation(self, whole, tmp_path):
        kill(tmp_path, kill_at=7)
        build(tmp_path, resume=True).train()
        self.check(whole, tmp_path)

    def test_killed_some_validations_after_the_checkpoint(
        self, whole, tmp_path
    ):
        kill(tmp_path, kill_at=10, checkpoint=2)
        build(tmp_path, resume=True).train()
        self.check(whole, tmp_path)

    def test_killed_twice(self, whole, tmp_path):
        kill(tmp_path, kill_at=4)
        kill(tmp_path, kill_at=7, resume=True)
        build(tmp_path, resume=True).train()
        self.check(whole, tmp_path)

    def test_lost_validation_shifts_nothing(self, whole, tmp_path):
        kill(tmp_path, kill_at=7)
        (tmp_path / 'report' / 'validations.json').unlink()
        build(tmp_path, resume=True).train()
        curve = read(tmp_path)['curves']['val/accuracy/top1']
        expected = whole.report['curves']['val/accuracy/top1']['value']
        assert curve['iteration'] == [3, 9, 12]
        assert curve['value'] == [expected[0], *expected[2:]]

    def test_unreadable_validations(self, whole, tmp_path):
        kill(tmp_path, kill_at=7)
        (tmp_path / 'report' / 'validations.json').write_text('{"valid')
        build(tmp_path, resume=True).train()
        curve = read(tmp_path)['curves']['val/accuracy/top1']
        assert curve['iteration'] == [3, 9, 12]

    def test_finished_run_gets_the_same_report(self, whole, tmp_path):
        build(tmp_path).train()
        (tmp_path / 'report' / 'report.json').unlink()
        build(tmp_path, resume=True).train()
        self.check(whole, tmp_path)

    def test_abandoned_run_leaves_no_trace(self, whole, tmp_path):
        kill(tmp_path, kill_at=7)
        kill(tmp_path, kill_at=2)
        assert not (tmp_path / 'report' / 'validations.json').exists()
        build(tmp_path).train()
        self.check(whole, tmp_path)

    def test_fine_tuning_is_a_new_run(self, whole, tmp_path):
        weights = str(whole.work_dir / 'epoch_4.pth')
        build(tmp_path, load_from=weights).train()
        curve = read(tmp_path)['curves']['val/accuracy/top1']
        assert curve['iteration'] == ITERATIONS
        assert len(read(tmp_path)['curves']['train/loss']['value']) == 6


class TestOtherRuns:
    def test_by_iteration(self, tmp_path):
        train_cfg = dict(by_epoch=False, max_iters=5, val_interval=2)
        build(tmp_path, train_cfg=train_cfg, param_scheduler=None).train()
        report = read(tmp_path)
        assert (report['epochs'], report['iterations']) == (0, 5)
        curves = report['curves']
        assert curves['val/accuracy/top1']['iteration'] == [2, 4, 5]
        assert curves['train/loss']['iteration'] == [2, 4, 5]
        assert report['student']['best_iteration'] == 5
        assert report['confusion'] == CONFUSION

    def test_without_teacher_and_validation(self, tmp_path):
        build(tmp_path, validate=False, has_teacher=False).train()
        report = read(tmp_path)
        assert report['teacher'] is None
        assert report['confusion'] is None
        assert report['student']['last'] is None
        page = (tmp_path / 'report' / 'index.html').read_text()
        assert '<code>train/distill.loss_feat</code>' in page

    def test_several_teachers(self, tmp_path):
        runner = build(tmp_path, has_teacher=False)
        runner.model.teachers = nn.ModuleDict(
            dict(one=nn.Linear(2, 1), two=nn.Linear(4, 1))
        ).requires_grad_(False)
        runner.message_hub.update_info(
            'teacher_metrics', dict(one={'accuracy/top1': 99.5}, two={})
        )
        runner.train()
        report = read(tmp_path)
        assert report['teacher'] is None
        assert report['teachers'] == [
            dict(
                name='one',
                architecture='Linear',
                parameters=3,
                metrics={'accuracy/top1': 99.5},
            ),
            dict(
                name='two', architecture='Linear', parameters=5, metrics=None
            ),
        ]
        page = (tmp_path / 'report' / 'index.html').read_text()
        assert '<b>99.50</b><span>teacher one</span>' in page

    def test_selection_is_included(self, tmp_path):
        folder = tmp_path / 'selection'
        folder.mkdir()
        (folder / 'selection.json').write_text('{"delta": 0.5}')
        (folder / 'montage.png').write_bytes(b'\x89PNG')
        build(tmp_path).train()
        assert read(tmp_path)['selection'] == {'delta': 0.5}
        page = (tmp_path / 'report' / 'index.html').read_text()
        assert page.count('data:image/png;base64,') == 1

    def test_mosaic_is_included(self, tmp_path):
        folder = tmp_path / 'mosaic'
        folder.mkdir()
        (folder / 'first.png').write_bytes(b'\x89PNG')
        (folder / 'latest.png').write_bytes(b'\x89PNG')
        runner = build(
            tmp_path, custom_hooks=[MosaicScalars(), DistillReportHook()]
        )
        runner.train()
        page = (tmp_path / 'report' / 'index.html').read_text()
        assert '<h2>Synthetic images</h2>' in page
        assert page.count('data:image/png;base64,') == 2
        curves = read(tmp_path)['curves']
        assert curves['train/mosaic.class_entropy'] == dict(
            iteration=[2, 4, 6, 8, 10, 12],
            value=[1.5, 3.5, 5.5, 7.5, 9.5, 11.5],
        )
        assert curves['train/mosaic.confidence']['value'] == [0.5] * 6
        assert curves['train/mosaic.loss_d']['value'] == [2.0] * 6
        assert '<code>train/mosaic.confidence</code>' in page

    def test_other_metric(self, tmp_path):
        hook = dict(type='DistillReportHook', metric='score')
        build(tmp_path, name='score', hook=hook).train()
        assert read(tmp_path)['student']['best_epoch'] == 4

    def test_unknown_metric_is_said_once(self, tmp_path):
        build(tmp_path, name='accuracy/top2').train()
        assert read(tmp_path)['student']['best'] is None
        (log,) = tmp_path.glob('*/*.log')
        wanted = "there is no metric 'accuracy/top1'; nearest: accuracy/top2"
        assert log.read_text().count(wanted) == 1

    def test_loss_that_becomes_nan(self, tmp_path):
        runner = build(tmp_path)
        nn.init.constant_(runner.model.student.weight, float('nan'))
        runner.train()
        assert read(tmp_path)['curves']['train/loss']['value'] == [None] * 6


def fake_runner(work_dir):
    dataloader = loader()
    return SimpleNamespace(
        iter=0,
        epoch=0,
        work_dir=str(work_dir),
        val_dataloader=dataloader,
        val_loop=SimpleNamespace(dataloader=dataloader),
    )


def validate_by_hand(work_dir, batches):
    hook, runner = DistillReportHook(), fake_runner(work_dir)
    hook.before_train(runner)
    runner.iter = runner.epoch = 1
    hook.before_val_epoch(runner)
    for index, batch in enumerate(batches):
        hook.after_val_iter(runner, index, outputs=batch)
    hook.after_val_epoch(runner, metrics={'accuracy/top1': 1.0})
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    return checkpoint['distill_report']['confusion']


class TestConfusion:
    def test_counts(self, tmp_path):
        batches = [predictions([0, 1]), predictions([2, 3]), predictions([4])]
        assert validate_by_hand(tmp_path, batches) == CONFUSION

    @pytest.mark.parametrize(
        'odd',
        [
            DataSample().set_gt_label([0, 1]).set_pred_label([0]),
            DataSample().set_gt_label(-1).set_pred_label(0),
            DataSample().set_gt_label(0),
            dict(loss=1.0),
        ],
        ids=['multi-label', 'ignored', 'unpredicted', 'no sample'],
    )
    def test_no_single_class_no_matrix(self, tmp_path, odd):
        batches = [predictions([0]), [odd], predictions([1])]
        assert validate_by_hand(tmp_path, batches) is None

    def test_validation_outside_of_training_is_ignored(self, tmp_path):
        hook, runner = DistillReportHook(), fake_runner(tmp_path)
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0, outputs=predictions([0]))
        hook.after_val_epoch(runner, metrics={'accuracy/top1': 1.0})
        assert list(tmp_path.iterdir()) == []

    def test_two_processes_count_padding_once(self, tmp_path):
        multiprocessing.start_processes(
            _validate_on_two, (str(tmp_path),), 2, start_method='fork'
        )
        for rank in range(2):
            counts = json.loads((tmp_path / f'{rank}.json').read_text())
            assert counts == CONFUSION
        (saved,) = (tmp_path / 'shared').glob('report/validations.json')
        assert json.loads(saved.read_text())['confusion'] == CONFUSION


def _validate_on_two(rank, folder):
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    # What DefaultSampler gives the ranks: image 0 again at the end.
    shares = [[0, 2], [4]], [[1, 3], [0]]
    counts = validate_by_hand(
        f'{folder}/shared', [predictions(batch) for batch in shares[rank]]
    )
    with open(f'{folder}/{rank}.json', 'w') as file:
        json.dump(counts, file)
    distributed.destroy_process_group()
