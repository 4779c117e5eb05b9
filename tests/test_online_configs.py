"""The shipped configs of students that are trained together."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, LOOPS, MODELS, init_default_scope

from mmkd_plugin.engine.preflight import missing_inputs

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
KDCL = {
    f'kdcl_{name}_r32_wrn162_cifar100.py': target
    for name, target in dict(
        naive='naive', linear='linear', minlogit='min_logit', general='general'
    ).items()
}
# Parameters of each student.
STUDENTS = {
    'dml_r32_r32_cifar100.py': dict(r32_a=472_756, r32_b=472_756),
    'dml_r18_r32_cifar100.py': dict(r18=11_220_132, r32=472_756),
    **{name: dict(r32=472_756, wrn16_2=703_284) for name in KDCL},
}


@pytest.fixture(autouse=True)
def no_run():
    """The hub of another test may say that a run goes on."""
    name = 'hub of no run'
    MessageHub.get_instance(name)
    yield
    del MessageHub._instance_dict[name]


def load(name):
    config = Config.fromfile(CONFIGS / name)
    init_default_scope(config.default_scope)
    return config


def test_all_of_them_are_here():
    found = {
        p.name for kind in ('dml', 'kdcl') for p in CONFIGS.glob(f'{kind}_*')
    }
    assert found == set(STUDENTS)


@pytest.mark.parametrize('name', STUDENTS)
def test_a_step(name):
    config = load(name)
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config.model))
    counts = {
        key: sum(p.numel() for p in student.parameters())
        for key, student in model.students.items()
    }
    assert counts == STUDENTS[name]
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert wrapper.get_lr() == {f'{key}.lr': [0.05] for key in counts}
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    batch = dict(
        inputs=images,
        sample_idx=torch.arange(4),
        gt_label=torch.tensor([3, 99, 0, 41]),
    )
    data = model.data_preprocessor(batch, True)
    # Each student of KDCL has its own view of an image.
    views = len(counts) if name in KDCL else 1
    assert model.data_preprocessor.views == views
    assert (type(data['inputs']) is list) == (views > 1)
    before = {k: p.clone() for k, p in model.named_parameters()}
    log = model.train_step(batch, wrapper)
    terms = {
        f'{key}.{term}'
        for key in counts
        for term in ('loss', 'distill.loss_peer')
    }
    assert terms <= set(log)
    assert log['loss'].isfinite()
    for key, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[key]), key


def test_methods():
    for name, target in KDCL.items():
        model = load(name).model
        assert (model.type, model.target) == ('KDCL', target)
        assert model.peer_loss == dict(type='KLDivergence', tau=2.0)
    for name in set(STUDENTS) - set(KDCL):
        model = load(name).model
        assert model.type == 'DML'
        assert model.peer_loss == dict(type='KLDivergence', tau=1.0)


@pytest.mark.parametrize('name', STUDENTS)
def test_what_is_common(name):
    config = load(name)
    assert config.train_cfg.max_epochs == 240
    assert config.param_scheduler.milestones == [150, 180, 210]
    assert LOOPS.get(config.val_cfg.type).__name__ == 'StudentsValLoop'
    assert LOOPS.get(config.test_cfg.type).__name__ == 'StudentsTestLoop'
    assert config.default_hooks.checkpoint.save_best == 'accuracy/top1'
    general = KDCL.get(name) == 'general'
    assert len(config.required_inputs) == 2 + general
    assert ('error_covariance' in config.default_hooks) == general


def test_held_out_images_are_not_trained_on(tmp_path, monkeypatch):
    config = load('kdcl_general_r32_wrn162_cifar100.py')
    hook = HOOKS.build(config.default_hooks.error_covariance)
    held_out = hook.dataloader['dataset'].dataset
    trained = config.train_dataloader.dataset.dataset
    # The first and the last ones of 50,000.
    assert (trained.indices, held_out.indices) == (45_000, -5_000)
    for part in (trained, held_out):
        part.pop('indices')
    assert trained == held_out
    assert 'indices' not in config.val_dataloader.dataset.dataset
    # They are looked for where both are.
    monkeypatch.chdir(tmp_path)
    assert len(missing_inputs(config)) == 3
