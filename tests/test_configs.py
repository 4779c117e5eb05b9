"""Every shipped config builds, and says what the docs say."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmkd_plugin.engine.preflight import missing_inputs
from mmkd_plugin.models import SingleTeacherDistill

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.as_posix() and path.stem[0] != '_'
)


def test_there_are_configs():
    assert 'eeikd_r34_r18_cifar100.py' in ALL
    assert len(ALL) >= 10


@pytest.mark.parametrize('name', ALL)
def test_config_builds(name):
    config = Config.fromfile(CONFIGS / name)
    init_default_scope(config.default_scope)
    if config.model.type == 'SingleTeacherDistill':
        config.model.teacher = MODELS.build(config.model.teacher)
        assert config.model.pop('teacher_ckpt')
        model = MODELS.build(config.model)
        assert isinstance(model, SingleTeacherDistill)
        # Labels are used where there are some, and only there.
        labeled = 'CIFAR' in str(config.train_dataloader.dataset)
        assert model.calculate_student_loss is labeled
    else:
        MODELS.build(config.model)
    assert config.trained_on


@pytest.mark.parametrize('name', ALL)
def test_missing_inputs_name_their_commands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(CONFIGS / name)
    problems = missing_inputs(config)
    assert len(problems) == len(config.get('required_inputs', []))
    for problem, item in zip(
        problems, config.get('required_inputs', []), strict=True
    ):
        assert 'None' not in problem.split('\n')[0]
        if item.get('make'):
            assert item['make'] in problem


def test_eeikd_defaults():
    config = Config.fromfile(CONFIGS / 'eeikd_r34_r18_cifar100.py')
    losses = config.model.distiller.distill_losses
    assert losses.loss_kl.tau == losses.loss_relation.tau == 4.0
    assert config.model.distiller.connectors.mask.drop_ratio == 0.5
    assert config.train_dataloader.sampler.num_samples == 150_000
    assert config.train_dataloader.sampler.gamma == 0.5
    # DFND's budget and its steps at 40 % and 80 %.
    epochs = config.train_cfg.max_epochs
    assert epochs == 40_000 * 512 // 150_000
    assert config.param_scheduler.milestones == [
        round(0.4 * epochs),
        round(0.8 * epochs),
    ]


def test_kd_weights():
    config = Config.fromfile(CONFIGS / 'kd_r34_r18_cifar100.py')
    assert config.model.distiller.distill_losses.loss_kl.loss_weight == 0.9
    assert config.model.student.head.loss.loss_weight == 0.1
    # The teacher's head is not weighted down along with it.
    assert config.model.teacher.head.loss.loss_weight == 1.0
