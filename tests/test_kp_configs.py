"""Teacher, baseline and student of the demo of knowledge points."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, init_default_scope

import mmkd_plugin  # noqa: F401
from mmkd_plugin.models import PartlyFrozenClassifier

FOLDER = Path(__file__).resolve().parents[1] / 'configs' / 'demo'
ROLES = ('teacher', 'baseline', 'student', 'classifier')


@pytest.fixture
def runs():
    found = {
        role: Config.fromfile(FOLDER / f'kp_{role}_scenes.py')
        for role in ROLES
    }
    init_default_scope('mmpretrain')
    return found


def snapshot(role, epoch):
    return f'work_dirs/demo/kp_{role}/snapshots/epoch_{epoch}.pth'


def test_one_network(runs):
    network = runs['baseline'].network.to_dict()
    for role in ('teacher', 'baseline'):
        model = runs[role].model.to_dict()
        assert model.pop('data_preprocessor') == runs[role].preprocessor
        assert model == network
    student = runs['student'].model
    assert student.teacher == network
    assert student.data_preprocessor == runs['teacher'].preprocessor
    partly = dict(network, type='PartlyFrozenClassifier')
    assert student.student == dict(partly, frozen=['head'])
    model = runs['classifier'].model.to_dict()
    assert model.pop('data_preprocessor') == runs['teacher'].preprocessor
    assert model == dict(
        partly, frozen=['backbone'], checkpoint=snapshot('student', 10)
    )


def test_student_and_baseline_differ_in_what_they_learn_from(runs):
    student, baseline = runs['student'], runs['baseline']
    for key in (
        'train_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'custom_hooks',
        'randomness',
    ):
        assert student[key] == baseline[key]
    assert student.train_cfg.max_epochs == baseline.train_cfg.max_epochs
    # From the same weights.
    assert student.model.student_ckpt == snapshot('baseline', 0)
    # The features of the layer, and nothing else.
    assert student.model.calculate_student_loss is False
    assert student.model.distiller.distill_losses == dict(
        loss_features=dict(type='MSELoss')
    )
    for side in ('student_recorders', 'teacher_recorders'):
        assert student.model.distiller[side] == dict(
            features=dict(type='ModuleOutputs', source=student.layer)
        )


def test_digits_of_the_splits(runs):
    for config in runs.values():
        assert config.train_dataloader.dataset.split == 'train'
        if config.val_dataloader:
            assert config.val_dataloader.dataset.split == 'test'
            # Measured once, at the end: nothing is chosen by it.
            epochs = config.train_cfg.max_epochs
            assert config.train_cfg.val_interval == epochs
            assert config.default_hooks.checkpoint.save_best is None
    count = runs['student'].train_dataloader.dataset.num_images
    assert runs['teacher'].train_dataloader.dataset.num_images == 4 * count
    assert runs['classifier'].train_dataloader.dataset.num_images == count


def test_a_run_needs_what_the_others_leave(runs):
    """The commands write what the keys name."""
    last = runs['teacher'].train_cfg.max_epochs
    made = {
        'model.teacher_ckpt': (
            'teacher',
            f'work_dirs/demo/kp_teacher/epoch_{last}.pth',
        ),
        'model.student_ckpt': ('baseline', snapshot('baseline', 0)),
        'model.checkpoint': ('student', snapshot('student', 10)),
    }
    assert runs['student'].train_cfg.max_epochs == 10
    needs = runs['student'].required_inputs + (
        runs['classifier'].required_inputs
    )
    assert [item['key'] for item in needs] == list(made)
    for item in needs:
        role, path = made[item['key']]
        assert item['make'] == (
            f'python tools/train.py configs/demo/kp_{role}_scenes.py '
            f'--work-dir work_dirs/demo/kp_{role}'
        )
        config = runs['classifier' if role == 'student' else 'student']
        assert config.model[item['key'].removeprefix('model.')] == path


def test_hooks(runs):
    for role, config in runs.items():
        distance, snapshots = config.custom_hooks[-2:]
        # Before them are those of every run.
        assert 'DistillReportHook' in str(config.custom_hooks[:-2])
        assert distance.type == 'WeightDistanceHook'
        # In all phases, or their distances would not add up.
        assert distance.parameters == ['backbone']
        # Both ends are there.
        epochs = HOOKS.build(snapshots).epochs
        assert epochs[0] == 0
        if role in ('student', 'baseline'):
            assert epochs[-1] == config.train_cfg.max_epochs


def test_only_the_layer_and_what_is_before_it_learns(runs):
    model = MODELS.build(runs['student'].model.student)
    assert isinstance(model, PartlyFrozenClassifier)
    children = [name for name, _ in model.backbone.named_children()]
    assert runs['student'].layer == f'backbone.{children[-1]}'
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        'head.fc.weight',
        'head.fc.bias',
    }
