"""Runs without a teacher, with all the hooks that the configs have."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from toy_runs import PREPROCESSOR, classifier, loader, make_dataset
from toy_self import config

from mmkd_plugin.engine.preflight import preflight
from mmkd_plugin.engine.report import format_table, parse_report

RUNTIME = (
    Path(__file__).parents[2] / 'configs' / '_base_' / 'default_runtime.py'
)
# Of batches of 4, over 12 images.
STEPS = dict(PSKD=3, DLB=3, CSKD=6)
LOADERS = dict(
    DLB=dict(batch_sampler=dict(type='LastBatchSampler', drop_last=True)),
    CSKD=dict(sampler=dict(type='SameClassPairSampler')),
)


@DATASETS.register_module()
def ToyImages(num, seed=0):
    """Images by a config that can be written down."""
    return make_dataset(num, seed=seed)


def images(num, **options):
    return dict(type='ToyImages', num=num, **options)


def make(name, work_dir):
    made = Config.fromfile(RUNTIME)
    # A schedule, to see that it goes by the runner.
    loss = dict(alpha=dict(type='LinearRamp', stop=0.8, end=2))
    made.merge_from_dict(
        dict(
            model=config(
                name,
                classifier(),
                data_preprocessor=PREPROCESSOR,
                loss=loss if name == 'PSKD' else {},
            ),
            train_dataloader=loader(
                images(12), shuffle=True, **LOADERS.get(name, {})
            ),
            val_dataloader=loader(images(6, seed=3)),
            val_evaluator=dict(type='Accuracy', topk=(1, 2)),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)),
            work_dir=str(work_dir / name),
            experiment_name=f'self_{name}',
            log_level='ERROR',
        )
    )
    made.default_hooks.logger.interval = 1
    return made


@pytest.mark.parametrize('name', STEPS)
def test_all_hooks(name, tmp_path):
    made = make(name, tmp_path)
    preflight(made)
    runner = Runner.from_cfg(made)
    runner.train()
    assert runner.iter == 2 * STEPS[name]
    # There is no teacher to evaluate.
    assert runner.message_hub.get_info('teacher_metrics') is None
    folder = Path(made.work_dir)
    assert not (folder / 'selection').exists()
    report = parse_report((folder / 'report' / 'report.json').read_text())
    assert report['teacher'] is None
    assert report['student']['parameters'] == 739
    assert set(report['student']['last']) == {'accuracy/top1', 'accuracy/top2'}
    curve = report['curves']['train/distill.loss_self']
    assert len(curve['value']) == 2 * STEPS[name]
    assert None not in curve['value']
    assert 'teacher' not in format_table([report])
    assert (folder / 'report' / 'index.html').is_file()
    # In the log of each step, not only at the end.
    (scalars,) = folder.glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [line['distill.loss_self'] for line in logged if 'loss' in line]
    assert len(losses) == 2 * STEPS[name]
    for epoch in (1, 2):
        path = folder / f'epoch_{epoch}.pth'
        weights = torch.load(path, weights_only=False)['state_dict']
        stored = {k for k in weights if k.startswith('store.')}
        assert len(stored) == (2 if name in ('PSKD', 'DLB') else 0)


def test_training_set_larger_than_the_store(tmp_path):
    made = make('PSKD', tmp_path)
    made.model.num_samples = 11
    with pytest.raises(ValueError, match='num_samples must be at least 12'):
        preflight(made)
    # Before anything is written.
    assert not list(tmp_path.iterdir())
