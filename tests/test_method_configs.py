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
    loader = config.train_dataloader
    loader.get('batch_sampler', loader).batch_size = 4
    model = config.model
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
