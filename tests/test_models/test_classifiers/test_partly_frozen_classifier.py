"""Frozen modules: neither weights nor statistics change."""

import copy

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from torch import distributed, nn
from toys import algorithm, architecture, sources, teacher

from mmkd_plugin.models import PartlyFrozenClassifier


def config(frozen, **more):
    made = architecture(stages=2)
    made.update(type='PartlyFrozenClassifier', frozen=frozen, **more)
    made.pop('_scope_')
    made['backbone']['type'] = 'mmpretrain.ResNet_CIFAR'
    made['neck']['type'] = 'mmpretrain.GlobalAveragePooling'
    made['head']['type'] = 'mmpretrain.LinearClsHead'
    return made


def build(frozen, **more):
    torch.manual_seed(0)
    return MODELS.build(config(frozen, **more))


def batch(num=6):
    torch.manual_seed(1)
    labels = torch.arange(num) % 5
    return dict(
        inputs=torch.randn(num, 3, 8, 8),
        data_samples=[DataSample().set_gt_label(k) for k in labels],
    )


def optimizer(model):
    settings = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1)
    return build_optim_wrapper(model, dict(optimizer=settings))


def changed(model, before):
    """Name what differs, weights and running statistics."""
    return {
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }


@pytest.mark.parametrize('scope', [None, 'mmpretrain'])
def test_bare_name_in_any_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        assert type(build(['head'])) is PartlyFrozenClassifier


@pytest.mark.parametrize(
    'frozen', [['backbone'], ['backbone.conv1', 'backbone.layer1'], ['head']]
)
def test_only_the_rest_learns(frozen):
    model = build(frozen)
    before = copy.deepcopy(model.state_dict())
    assert model.train() is model
    wrapper = optimizer(model)
    for _ in range(2):
        model.train_step(batch(), wrapper)
    expected = {
        name
        for name in before
        if not name.startswith(tuple(f'{path}.' for path in frozen))
    }
    assert changed(model, before) == expected
    assert 0 < len(expected) < len(before)


def test_modes():
    model = build(['backbone.layer1'])
    for mode in (True, False):
        assert model.train(mode) is model
        for name, module in model.named_modules():
            frozen = f'{name}.'.startswith('backbone.layer1.')
            assert module.training is (mode and not frozen), name
    assert model.eval() is model


def test_modes_after_modules_are_replaced():
    """As SyncBN does it."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(build(['backbone']))
    model.train()
    assert isinstance(model.backbone.bn1, nn.SyncBatchNorm)
    assert not any(m.training for m in model.backbone.modules())
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_everything_else_is_the_classifier_of_mmpretrain():
    ours = build(['backbone'])
    with torch.random.fork_rng(devices=[]):
        theirs = MODELS.build(architecture(stages=2))
    theirs.load_state_dict(ours.state_dict())
    data = batch()
    for mode in ('tensor', 'loss', 'predict'):
        pair = [m.eval()(**data, mode=mode) for m in (ours, theirs)]
        if mode == 'predict':
            pair = [torch.stack([s.pred_score for s in p]) for p in pair]
        if mode == 'loss':
            pair = [p['loss'] for p in pair]
        assert torch.equal(*pair)


def test_checkpoint_survives_the_initialisation(tmp_path):
    source = build(['head'])
    torch.manual_seed(5)
    for value in source.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    path = tmp_path / 'epoch_3.pth'
    torch.save(dict(state_dict=source.state_dict(), meta={}), path)
    model = build(['backbone'], checkpoint=str(path))
    assert not changed(model, source.state_dict())
    model.init_weights()
    assert not changed(model, source.state_dict())
    assert not model.backbone.conv1.weight.requires_grad


def test_checkpoint_that_does_not_fit(tmp_path):
    weights = build(['head']).state_dict()
    weights.pop('backbone.conv1.weight')
    path = tmp_path / 'other.pth'
    torch.save(weights, path)
    with pytest.raises(ValueError, match='1 missing: backbone'):
        build(['backbone'], checkpoint=str(path))
    with pytest.raises(FileNotFoundError, match='There is no checkpoint'):
        build(['backbone'], checkpoint=str(tmp_path / 'none.pth'))


@pytest.mark.parametrize(
    ('frozen', 'match'),
    [
        ('backbone', "must be a list of paths .* but got 'backbone'"),
        ([], r'must be a list of paths .* but got \[\]'),
        ([3], r'must be a list of paths .* but got \[3\]'),
        (
            ['backbone.layer9'],
            r"no module 'backbone\.layer9'; nearest: .*backbone\.layer1",
        ),
        (
            ['backbone', 'head'],
            r"leave something to train, but \['backbone', 'head'\]",
        ),
    ],
)
def test_bad_paths(frozen, match):
    with pytest.raises(ValueError, match=match):
        build(frozen)


def feature_distillation(student):
    features = dict(
        features=dict(type='ModuleOutputs', source='backbone.layer2')
    )
    return algorithm(
        student=student,
        teacher=teacher(stages=2),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=features,
            teacher_recorders=features,
            distill_losses=dict(loss_features=dict(type='MSELoss')),
            loss_forward_mappings=dict(loss_features=sources('features')),
        ),
    )


@pytest.fixture
def group(tmp_path):
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{tmp_path / "rendezvous"}',
        rank=0,
        world_size=1,
    )
    yield
    distributed.destroy_process_group()


def test_student_of_features_under_ddp(group):
    """The head has no gradient, and DDP waits for none."""

    def train(student, steps):
        model = feature_distillation(student)
        before = copy.deepcopy(model.student.state_dict())
        wrapper = optimizer(model)
        wrapped = MMDistributedDataParallel(
            model, find_unused_parameters=False
        )
        wrapped.train()
        losses = [
            wrapped.train_step(batch(), wrapper)['loss'].item()
            for _ in range(steps)
        ]
        return losses, changed(model.student, before)

    losses, moved = train(config(['head']), 6)
    assert losses[-1] < 0.9 * losses[0]
    assert moved and all(name.startswith('backbone.') for name in moved)
    # Not so where the head waits to be trained.
    with pytest.raises(RuntimeError, match='find_unused_parameters'):
        train(architecture(stages=2), 2)
