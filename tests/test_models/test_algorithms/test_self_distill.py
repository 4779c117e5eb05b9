"""Self-distillation without a past: BYOT's exits, TF-KD."""

import copy

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close
from toy_self import build, config, samples, train_step
from toys import CLASSES, architecture

from mmkd_plugin.engine.export import export_student
from mmkd_plugin.models import kl_divergence, tfkd_loss

LABELS = torch.tensor([1, 0, 3, 2, 4, 1])
NAMES = ('PSKD', 'DLB', 'CSKD', 'TFKD', 'BYOT')


@pytest.fixture
def images(seed):
    return torch.randn(6, 3, 8, 8)


def exits(stages=3, width=4, **options):
    """Get the config of BYOT with an exit behind each stage but the last."""
    numbers = range(1, stages)
    recorders = {
        f'stage{i}': dict(type='ModuleOutputs', source=f'backbone.layer{i}')
        for i in numbers
    }
    losses, mappings = {}, {}
    for i in numbers:
        feature, logits = (
            dict(
                from_student=True,
                recorder=f'stage{i}',
                connector=f'exit{i}',
                connector_idx=k,
            )
            for k in (0, 1)
        )
        losses |= {
            f'loss_label{i}': dict(type='CrossEntropyLoss', loss_weight=0.7),
            f'loss_soft{i}': dict(
                type='KLDivergence', tau=3.0, loss_weight=0.3
            ),
            f'loss_feature{i}': dict(type='MSELoss', loss_weight=0.05),
        }
        mappings |= {
            f'loss_label{i}': dict(
                cls_score=logits, label=dict(from_batch='gt_label')
            ),
            f'loss_soft{i}': dict(
                preds_S=logits,
                preds_T=dict(from_student=True, recorder='logits'),
            ),
            f'loss_feature{i}': dict(
                preds_S=feature,
                preds_T=dict(
                    from_student=True, recorder='feature', data_idx=0
                ),
            ),
        }
    return dict(
        type='SelfDistill',
        student=architecture(width, stages),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(
                recorders,
                logits=dict(type='ModuleOutputs', source='head.fc'),
                feature=dict(type='ModuleInputs', source='head.fc'),
            ),
            connectors={
                f'exit{i}': dict(
                    type='BYOTConnector',
                    in_channels=width * 2 ** (i - 1),
                    out_channels=width * 2 ** (stages - 1),
                    num_classes=CLASSES,
                    num_halvings=stages - i,
                )
                for i in numbers
            },
            distill_losses=losses,
            loss_forward_mappings=mappings,
        ),
        **options,
    )


def make(name, **options):
    if name != 'BYOT':
        return build(name, **options)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(exits(**options)).train()


def test_exits_learn_from_the_deepest(images):
    model = make('BYOT')
    other = copy.deepcopy(model)
    losses = model.loss(images, samples(range(6), LABELS))
    total, _ = model.parse_losses(losses)
    total.backward()

    backbone, head = other.student.backbone, other.student.head
    stages = [backbone.relu(backbone.bn1(backbone.conv1(images)))]
    for name in ('layer1', 'layer2', 'layer3'):
        stages.append(getattr(backbone, name)(stages[-1]))
    deepest = stages[-1].mean((2, 3))
    logits = head.fc(deepest)
    expected = {'student.loss': cross_entropy(logits, LABELS)}
    for i in (1, 2):
        connector = other.distiller.connectors[f'exit{i}']
        feature, answer = connector(stages[i])
        expected |= {
            f'distill.loss_label{i}': 0.7 * cross_entropy(answer, LABELS),
            f'distill.loss_soft{i}': 0.3
            * kl_divergence(answer, logits.detach(), 3.0),
            f'distill.loss_feature{i}': 0.05
            * mse_loss(feature, deepest.detach()),
        }
    assert_close(losses, expected)
    assert all(value > 1e-4 for value in expected.values())
    sum(expected.values()).backward()
    # The deepest learns from the labels alone, the exits from it.
    for (name, one), two in zip(
        model.named_parameters(), other.parameters(), strict=True
    ):
        assert_close(one.grad, two.grad, msg=name)
        assert one.grad.abs().max() > 0, name


def test_an_exit_runs_once_a_step(images):
    model = make('BYOT')
    calls = []
    for connector in model.distiller.connectors.values():
        connector.register_forward_hook(lambda *_: calls.append(1))
    model.loss(images, samples(range(6), LABELS))
    assert len(calls) == 2
    # So their batch norms count one batch.
    counts = [
        value.item()
        for name, value in model.state_dict().items()
        if name.startswith('distiller') and 'num_batches' in name
    ]
    assert len(counts) == 2 * 2 + 3
    assert set(counts) == {1}


def test_labels_of_exits_are_needed(images):
    model = make('BYOT', calculate_student_loss=False)
    unlabeled = samples(range(6))
    unlabeled.gt_label = None
    with pytest.raises(ValueError, match='the batch has no gt_label'):
        model.loss(images, unlabeled)


def test_virtual_teacher(images):
    model = build('TFKD', loss=dict(alpha=0.3, tau=2.0))
    logits = copy.deepcopy(model.student)(images)
    losses = model.loss(images, samples(range(6), LABELS))
    assert losses.keys() == {'distill.loss_self'}
    expected = tfkd_loss(logits, LABELS, alpha=0.3, tau=2.0)
    assert_close(losses['distill.loss_self'], expected)


def pairs(name):
    """Labels of pairs for CS-KD."""
    return LABELS.repeat_interleave(2)[:6] if name == 'CSKD' else LABELS


@pytest.mark.parametrize('name', NAMES)
def test_the_student_learns(name, images):
    options = dict(batch_size=6) if name == 'DLB' else {}
    model = make(name, **options)

    def error():
        # Of the first images, which CS-KD learns from.
        return cross_entropy(model.student(images)[::2], pairs(name)[::2])

    before = error()
    for _ in range(8):
        train_step(model, images, samples(range(6), pairs(name)))
    assert error() < 0.9 * before


@pytest.mark.parametrize('name', NAMES)
def test_prediction_is_that_of_the_student(name, images):
    model = make(name).eval()
    assert_close(model(images), model.student(images), rtol=0, atol=0)
    predicted = model(images, samples(range(6)), mode='predict')
    assert len(predicted) == 6


@pytest.mark.parametrize('name', NAMES)
def test_exported_student(name, tmp_path):
    """It is a plain classifier, without a store and exits."""
    model = make(name)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'run.pth')
    made = exits() if name == 'BYOT' else config(name)
    made['data_preprocessor'] = dict(
        type='BatchAugDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3
    )
    result = export_student(
        Config(dict(model=made)),
        str(tmp_path / 'run.pth'),
        str(tmp_path / 'student.pth'),
        input_size=8,
    )
    assert result.packages == []
    weights = torch.load(result.checkpoint, weights_only=True)['state_dict']
    assert weights.keys() == model.student.state_dict().keys()
    student = mmpretrain.get_model(result.config, result.checkpoint)
    image = torch.randn(2, 3, 8, 8)
    assert_close(student.eval()(image), model.student.eval()(image))
