"""Image classifiers of torchvision."""

import copy
import pickle

import pytest
import torch
import torchvision
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.functional import cross_entropy

import mmkd_plugin  # noqa: F401
from mmkd_plugin.utils.checkpoint import load_strict, load_weights

# MNASNet checks the version of its weights; the heads of Swin and of
# SqueezeNet are called `head` and `classifier`.
NAMES = ['resnet18', 'mobilenet_v3_small', 'squeezenet1_1', 'mnasnet0_5']


def build(name='squeezenet1_1', **kwargs):
    return MODELS.build(
        dict(
            type='TorchvisionClassifier',
            model_name=name,
            num_classes=5,
            **kwargs,
        )
    )


def reference(name='squeezenet1_1', **kwargs):
    torch.manual_seed(3)
    return torchvision.models.get_model(name, num_classes=5, **kwargs)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(3, 3, 64, 64)


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


@pytest.mark.parametrize('name', NAMES)
def test_loads_a_torchvision_checkpoint(name, images, tmp_path):
    theirs = reference(name).eval()
    path = str(tmp_path / 'theirs.pth')
    torch.save(theirs.state_dict(), path)
    ours = build(name).eval()
    load_strict(ours, load_weights(path), 'teacher', path)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize('name', ['squeezenet1_1', 'mnasnet0_5'])
def test_pretrained_from_a_file(name, images, tmp_path):
    """By mmengine's own loader, which is not strict."""
    theirs = reference(name).eval()
    path = str(tmp_path / 'theirs.pth')
    torch.save(theirs.state_dict(), path)
    ours = build(name, init_cfg=dict(type='Pretrained', checkpoint=path))
    ours.init_weights()
    ours.eval()
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize('name', NAMES)
def test_torchvision_loads_its_checkpoint(name, images):
    ours, theirs = build(name).eval(), reference(name).eval()
    state = ours.state_dict()
    assert set(state) == set(theirs.state_dict())
    theirs.load_state_dict(state)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize('name', ['squeezenet1_1', 'mnasnet0_5'])
@pytest.mark.parametrize('nested', [False, True])
def test_round_trip_through_mmengine(name, nested, images, tmp_path):
    """Alone, and as the student of an algorithm with a neighbour."""

    def wrap(model):
        if not nested:
            return model
        return nn.ModuleDict(dict(student=model, other=nn.Linear(2, 2)))

    source, target = wrap(build(name)), wrap(build(name))
    path = str(tmp_path / 'x.pth')
    save_checkpoint(dict(state_dict=source.state_dict()), path)
    load_checkpoint(target, path, strict=True)
    for ours, theirs in zip(
        source.state_dict().items(),
        target.state_dict().items(),
        strict=True,
    ):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])
    if nested:
        assert 'student.classifier.1.weight' in source.state_dict() or (
            'student.layers.0.weight' in source.state_dict()
        )


def test_swin_head_is_not_taken_for_the_own_head():
    """Both are called ``head``; only torchvision's has weights."""
    options = dict(embed_dim=8, depths=[2], num_heads=[1], num_classes=5)
    swin = torchvision.models.SwinTransformer(
        patch_size=[4, 4], window_size=[7, 7], **options
    )
    model = build()
    model.model = swin
    state = model.state_dict()
    assert set(state) == set(swin.state_dict())
    state = {k: torch.ones_like(v) for k, v in state.items()}
    load_strict(model, state, 'student')
    assert swin.head.weight.eq(1).all()


def test_wrong_checkpoint_is_refused():
    model = build()
    state = reference().state_dict()
    state['classifier.1.wrong'] = state.pop('classifier.1.weight')
    with pytest.raises(RuntimeError, match=r'classifier\.1\.wrong'):
        model.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r'1 missing: classifier\.1\.weight\n1 unexpected'
    ):
        load_strict(model, state, 'teacher')


def test_loss_and_predictions(images):
    model = build(
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=2.0)
    ).eval()
    labels = [4, 0, 2]
    logits = model(images)
    losses = model(images, samples(labels), mode='loss')
    expected = 2 * cross_entropy(logits, torch.tensor(labels))
    assert list(losses) == ['loss']
    assert torch.allclose(losses['loss'], expected)

    given = samples(labels)
    predictions = model(images, given, mode='predict')
    for sample, prediction, row in zip(
        given, predictions, logits, strict=True
    ):
        assert prediction is sample
        assert torch.allclose(prediction.pred_score, row.softmax(0))
        assert prediction.pred_label.item() == row.argmax().item()
    assert len(model(images, mode='predict')) == 3
    with pytest.raises(ValueError, match="got 'logits'"):
        model(images, mode='logits')


def test_test_step_normalises():
    cfg = dict(mean=[10.0] * 3, std=[5.0] * 3, to_rgb=True)
    given = copy.deepcopy(cfg)
    model = build(data_preprocessor=cfg).eval()
    assert cfg == given
    raw = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        predictions = model.test_step(dict(inputs=raw, data_samples=None))
        expected = model((raw.flip(1).float() - 10) / 5).softmax(1)
    scores = torch.stack([p.pred_score for p in predictions])
    assert torch.allclose(scores, expected)


def test_batch_augments_reach_the_preprocessor():
    model = build(
        train_cfg=dict(augments=dict(type='mmpretrain.Mixup', alpha=0.8))
    )
    assert model.data_preprocessor.batch_augments is not None


def test_auxiliary_logits_are_ignored():
    model = build('googlenet', init_weights=False)
    model.train()
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 5)


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain'])
def test_builds_under_any_default_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        assert build().head.num_classes == 5


def test_number_of_classes_is_known():
    assert build().head.num_classes == 5
    default = MODELS.build(
        dict(type='TorchvisionClassifier', model_name='squeezenet1_1')
    )
    assert default.head.num_classes == 1000
    assert default(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"'resnet19'; nearest: .*resnet18"):
        build('resnet19')
    # A detector is no classifier.
    with pytest.raises(ValueError, match='no classification model'):
        build('fasterrcnn_resnet50_fpn')
    with pytest.raises(
        ValueError, match=r"'x\.pth'; known: IMAGENET1K_V1, DEFAULT"
    ):
        build('mnasnet0_5', weights='x.pth')


def test_deepcopy_and_pickle(images):
    model = build().eval()
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(clone(images), model(images))
        # The hooks of the copy serve the copy.
        state = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
        load_strict(clone, state, 'copy')
        assert clone(images).eq(0).all()
        assert not model(images).eq(0).all()
