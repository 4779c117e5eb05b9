"""The config of each method of the survey's families takes some steps.

On embedded digits, with the networks of ``benchmarks/methods.py``.
"""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

ROOT = Path(__file__).parents[1]


def _methods():
    spec = importlib.util.spec_from_file_location(
        'methods', ROOT / 'benchmarks' / 'methods.py'
    )
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for it.
    sys.modules['methods'] = module
    spec.loader.exec_module(module)
    return module


methods = _methods()


class Steps(Hook):
    """Notes the losses of each step, and what learned."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.logs = []

    def before_train(self, runner):
        self.start = {
            name: parameter.detach().clone()
            for name, parameter in runner.model.named_parameters()
            if parameter.requires_grad
        }

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.logs.append({k: v.item() for k, v in outputs.items()})


def untrained(network):
    """Build a network in the place of a config and its checkpoint."""
    torch.manual_seed(0)
    model = MODELS.build(network)
    with torch.no_grad():
        model.head.fc.weight.normal_()
    return model


def small(name):
    """Put a config on digits, and its checkpoints out of the way."""
    config = methods.load(name)
    init_default_scope(config.default_scope)
    methods.on_digits(config, num_images=8, epochs=2)
    config.train_cfg.pop('val_interval')
    config.train_dataloader.batch_size = 4
    model = config.model
    if 'batch_size' in model:
        model.batch_size = 4
    if 'teacher' in model:
        model.pop('teacher_ckpt')
        model.teacher = untrained(model.teacher)
    for teacher in model.get('teachers', {}).values():
        teacher.pop('ckpt')
        teacher.model = untrained(teacher.model)
    return config


def train(config, work_dir, name):
    """Run a config and check what its steps did."""
    steps = Steps()
    runner = Runner(
        model=MODELS.build(config.model),
        work_dir=str(work_dir),
        experiment_name=name,
        train_dataloader=config.train_dataloader,
        train_cfg=config.train_cfg,
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        default_hooks=dict(config.default_hooks, logger=None),
        custom_hooks=[*config.custom_hooks, steps],
        default_scope=config.default_scope,
        log_level='ERROR',
        randomness=dict(seed=3),
    )
    runner.train()
    # CS-KD sees every image twice in an epoch.
    assert len(steps.logs) in (4, 8)
    for log in steps.logs:
        assert all(math.isfinite(value) for value in log.values()), log
        assert log['loss'] != 0
    # Every parameter has learned, or DDP would look for it in vain.
    for key, parameter in runner.model.named_parameters():
        if key in steps.start:
            assert not torch.equal(parameter, steps.start[key]), key


@pytest.mark.parametrize('name', methods.METHODS)
def test_some_steps(name, tmp_path):
    method = methods.METHODS[name]
    config = small(method.config)
    config.default_hooks.checkpoint = None
    if method.first is not None:
        train(small(method.first), tmp_path, method.first)
        left = tmp_path / method.left.format(2)
        assert left.is_file()
        if method.link != 'model.teacher_ckpt':
            config.merge_from_dict({method.link: str(left)})
    train(config, tmp_path / 'second', name)


# The published weights, and where RepDistiller's scripts say so, theirs.
WEIGHTS = dict(
    dist=dict(loss_dist=1.0),
    wsld=dict(loss_wsld=2.5),
    fitnets=dict(loss_hint=100.0),
    at=dict.fromkeys(('loss_at1', 'loss_at2', 'loss_at3'), 1000.0),
    nst=dict.fromkeys(('loss_nst1', 'loss_nst2', 'loss_nst3'), 50.0),
    ofd=dict(loss_ofd1=2.5e-4, loss_ofd2=5e-4, loss_ofd3=1e-3),
    reviewkd=dict.fromkeys([f'loss_level{k}' for k in (1, 2, 3, 4)], 5.0),
    simkd=dict(loss_simkd=1.0),
    mgd=dict(loss_mgd=1.2e-3),
    vid=dict.fromkeys(('loss_vid1', 'loss_vid2', 'loss_vid3'), 1.0),
    ft=dict(loss_ft=500.0),
    ab_init=dict(loss_ab1=7.5e-4, loss_ab2=1.5e-3, loss_ab3=3e-3),
    fsp_init=dict.fromkeys(('loss_fsp1', 'loss_fsp2', 'loss_fsp3'), 1.0),
    rkd=dict(loss_rkd=1.0),
    sp=dict(loss_sp=3000.0),
    cc=dict(loss_cc=100.0),
    pkt=dict(loss_pkt=30000.0),
    crd=dict(loss_crd=0.8),
)


@pytest.mark.parametrize('stem', WEIGHTS)
def test_weights(stem):
    model = methods.load(methods.PAIR.format(stem)).model
    weights = {}
    for name, loss in model.distiller.distill_losses.items():
        weight = loss.get('loss_weight', 1.0)
        if isinstance(weight, dict):
            assert weight.pop('type') == 'LinearWarmup'
            # The released codes' first epochs: 0 for ReviewKD, 1 for DKD.
            begin = weight.get('begin', 0)
            assert begin == (stem == 'reviewkd')
            assert weight.end == begin + 20
            weight = weight.value
        weights[name] = weight
    assert weights == WEIGHTS[stem]
    labeled = model.get('calculate_student_loss', True)
    assert labeled is (stem not in ('simkd', 'ab_init', 'fsp_init'))
    if labeled:
        assert model.student.head.loss == dict(
            type='CrossEntropyLoss', loss_weight=1.0
        )


def test_page_of_all_methods():
    """Each config is on it, by its name or by the first part of it."""
    page = (ROOT / 'docs' / 'methods.md').read_text()
    for method in methods.METHODS.values():
        for name in (method.config, method.first):
            if name is None or name.startswith('teachers/'):
                continue
            stem = name.split('_r32')[0].split('_r20')[0].split('_r18')[0]
            stem = 'sdd' if stem.startswith('sdd') else stem
            if stem.startswith('kdcl'):
                stem, target = stem.split('_')
                assert target in page
            assert f'`{stem}_' in page, name
