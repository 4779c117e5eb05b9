import copy
import gc
import pickle

import pytest
import torch
from mmengine.registry import MODELS, TASK_UTILS
from mmpretrain.models import GlobalAveragePooling, LinearClsHead
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d
from torch.testing import assert_close
from toys import CLASSES, algorithm, architecture, sources

from mmkd_plugin.models import LogitMapOutputs, SDDLoss
from mmkd_plugin.models.recorders.logit_map_outputs import (
    _classifier_first,
    logit_map,
)

EXACT = dict(rtol=1e-12, atol=1e-12)


def network(stages=1, seed=3, **options):
    """Build a classifier in float64 whose answers are not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS.build(architecture(stages=stages, **options)).double()
        model.head.fc.weight.data.normal_()
        model.head.fc.bias.data.normal_()
    model.eval()
    return model


@pytest.fixture
def images(seed):
    return torch.randn(3, 3, 8, 8, dtype=torch.float64)


def attached(model, *args, **kwargs):
    recorder = LogitMapOutputs(*args, **kwargs)
    recorder.initialize(model)
    return recorder


def recorded(model, images, **options):
    recorder = attached(model, **options)
    with recorder:
        logits = model(images)
    return recorder.get_record(), logits


def feature_of(model, images):
    return model.backbone(images)[-1]


# ----------------------------------------------------------------- values


@pytest.mark.parametrize('size', [(8, 8), (7, 7), (5, 9)])
@pytest.mark.parametrize('stages', [1, 2])
def test_mean_of_the_map_is_the_logits(seed, size, stages):
    model = network(stages)
    record, logits = recorded(
        model, torch.randn(3, 3, *size, dtype=torch.float64)
    )
    # Not flat, or any wrong map would do.
    assert record.flatten(2).std(dim=2).min() > 1e-3
    assert record.shape[2:] == tuple(-(-s // stages) for s in size)
    assert_close(record.mean(dim=(2, 3)), logits, **EXACT)


def test_every_position_is_classified(images):
    model = network()
    record, _ = recorded(model, images)
    feature = feature_of(model, images)
    for y in range(8):
        for x in range(8):
            expected = model.head.fc(feature[:, :, y, x])
            assert_close(record[:, :, y, x], expected, **EXACT)


def test_the_last_of_several_feature_maps():
    config = architecture(stages=2)
    config['backbone']['out_indices'] = (0, 1)
    model = MODELS.build(config).eval()
    x = torch.randn(2, 3, 8, 8)
    record, logits = recorded(model, x)
    assert record.shape == (2, CLASSES, 4, 4)
    assert_close(record.mean(dim=(2, 3)), logits)


def test_grid(images):
    model = network()
    record, logits = recorded(model, images, grid_size=4)
    full, _ = recorded(model, images)
    assert_close(record, adaptive_avg_pool2d(full, 4), **EXACT)
    # Cells of equal size, which those of 3 by 3 in 8 by 8 are not.
    assert_close(record.mean(dim=(2, 3)), logits, **EXACT)


def test_grid_on_maps_of_7(seed):
    """As on ImageNet: cells overlap, and the mean is not the logits."""
    model = network()
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    record, logits = recorded(model, x, grid_size=4)
    # Rows 0-1, 1-3, 3-5, 5-6: floor(7 i / 4) to ceil(7 (i + 1) / 4).
    cells = [slice(0, 2), slice(1, 4), slice(3, 6), slice(5, 7)]
    feature = feature_of(model, x)
    for i, rows in enumerate(cells):
        for j, columns in enumerate(cells):
            cell = feature[:, :, rows, columns].mean(dim=(2, 3))
            assert_close(record[:, :, i, j], model.head.fc(cell), **EXACT)
    assert (record.mean(dim=(2, 3)) - logits).abs().max() > 1e-3


@pytest.mark.parametrize('size', [(4, 4), (3, 3), (4, 9), (9, 3), (2, 8)])
def test_a_map_that_is_not_larger_than_the_grid_stays(seed, size):
    model = network()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    record, _ = recorded(model, x, grid_size=4)
    assert record.shape[2:] == size
    assert torch.equal(record, recorded(model, x)[0])


@pytest.mark.parametrize('size', [(8, 8), (7, 7), (5, 6), (9, 3)])
def test_grid_is_the_first_step_of_sdd(seed, size):
    loss = SDDLoss(weight_rule='teacher_global')
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    student, teacher = network(seed=1), network(seed=2)
    gradients = []
    for grid_size in (None, 4):
        preds_S, _ = recorded(student, x, grid_size=grid_size)
        preds_T, _ = recorded(teacher, x, grid_size=grid_size)
        value = loss(preds_S, preds_T)
        weight = student.head.fc.weight
        gradients.append((value, *torch.autograd.grad(value, weight)))
    assert_close(gradients[0], gradients[1], **EXACT)
    assert gradients[0][0] > 1e-3


def test_without_bias(images):
    model = network()
    model.head.fc = nn.Linear(4, CLASSES, bias=False).double()
    record, logits = recorded(model, images)
    assert_close(record.mean(dim=(2, 3)), logits, **EXACT)


def test_classifier_inside_a_model(images):
    model = nn.Sequential(nn.Identity(), network())
    record, logits = recorded(model, images, source='1')
    assert_close(record.mean(dim=(2, 3)), logits, **EXACT)


# ------------------------------------------------------------- two orders


@pytest.mark.parametrize('bias', [True, False])
def test_both_orders_are_equal(seed, bias):
    """In value and in all gradients."""
    # 5 x 5 to 4 x 4: few classes make it cheaper to classify first.
    for classes, first in ((2, True), (50, False)):
        linear = nn.Linear(8, classes, bias=bias).double()
        assert _classifier_first(25, 16, linear) is first
        feature = torch.randn(3, 8, 5, 5, dtype=torch.float64)
        feature.requires_grad_()
        inputs = [feature, *linear.parameters()]
        kernel = linear.weight.view(classes, 8, 1, 1)
        pooled = adaptive_avg_pool2d(feature, 4)
        after = conv2d(pooled, kernel, linear.bias)
        before = adaptive_avg_pool2d(conv2d(feature, kernel, linear.bias), 4)
        found = logit_map(feature, linear, 4)
        # The very same operations as the one, equal to the other.
        assert torch.equal(found, before if first else after)
        assert not torch.equal(before, after)
        upstream = torch.randn_like(found)
        for way in (before, after):
            assert_close(found, way, **EXACT)
            for one, other in zip(
                torch.autograd.grad(found, inputs, upstream, True),
                torch.autograd.grad(way, inputs, upstream),
                strict=True,
            ):
                assert_close(one, other, **EXACT)


def test_order_is_the_one_with_less_work():
    """Counted by hand, for one sample."""
    # 64 * 256 * 100 + 64 * 100 against 64 * 256 + 16 * 256 * 100.
    assert not _classifier_first(64, 16, nn.Linear(256, 100))
    # 64 * 256 * 1 + 64 against 64 * 256 + 16 * 256.
    assert _classifier_first(64, 16, nn.Linear(256, 1))
    # 25 * 8 * 2 + 25 * 2 = 450 against 25 * 8 + 16 * 8 * 2 = 456.
    assert _classifier_first(25, 16, nn.Linear(8, 2))
    # 25 * 8 * 3 + 25 * 3 = 675 against 25 * 8 + 16 * 8 * 3 = 584.
    assert not _classifier_first(25, 16, nn.Linear(8, 3))


# -------------------------------------------------------------- gradients


@pytest.mark.parametrize('grid_size', [None, 4])
def test_gradient_of_classifier_and_features(images, grid_size):
    model = network()
    record, _ = recorded(model, images, grid_size=grid_size)
    upstream = torch.randn_like(record)
    record.backward(upstream)
    feature = feature_of(model, images)
    if grid_size:
        feature = feature.unflatten(2, (4, 2)).unflatten(4, (4, 2))
        feature = feature.mean(dim=(3, 5))
    # d/dW of sum_bkyx u_bkyx (W_kc f_bcyx + b_k).
    fc = model.head.fc
    expected = torch.einsum('bkyx,bcyx->kc', upstream, feature)
    assert_close(fc.weight.grad, expected, **EXACT)
    assert_close(fc.bias.grad, upstream.sum(dim=(0, 2, 3)), **EXACT)
    explicit = torch.einsum('kc,bcyx->bkyx', fc.weight.detach(), feature)
    stem = model.backbone.conv1.weight
    (expected,) = torch.autograd.grad(explicit, stem, upstream)
    assert expected.abs().max() > 0
    assert_close(stem.grad, expected, **EXACT)


def test_no_gradient_under_no_grad(images):
    model = network()
    with torch.no_grad():
        record, _ = recorded(model, images)
    assert not record.requires_grad


def test_autocast_does_to_the_map_what_it_does_to_the_logits(images):
    model = network().float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        record, logits = recorded(model, images.float())
    assert record.dtype == logits.dtype == torch.bfloat16
    exact, _ = recorded(model, images.float())
    assert_close(record.float(), exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize('grid_size', [None, 4])
def test_channels_last(images, grid_size):
    model = network()
    expected, _ = recorded(model, images, grid_size=grid_size)
    layout = torch.channels_last
    model.to(memory_format=layout)
    record, _ = recorded(
        model, images.to(memory_format=layout), grid_size=grid_size
    )
    assert_close(record, expected, **EXACT)
    assert record.is_contiguous(memory_format=layout)
    record.sum().backward()
    assert model.head.fc.weight.grad.isfinite().all()


# ------------------------------------------------------------- life cycle


def hook_count(model):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in model.modules()
    )


def test_no_record_outside_the_context(images):
    model = network()
    recorder = attached(model)
    model(images)
    with recorder:
        pass
    model(images)
    with pytest.raises(
        RuntimeError, match="LogitMapOutputs on '' recorded nothing"
    ):
        recorder.get_record()


def test_one_record_a_call(images):
    model = network()
    recorder = attached(model)
    with recorder:
        first, second = model(images), model(images + 1)
    for idx, logits in enumerate((first, second)):
        record = recorder.get_record(record_idx=idx)
        assert_close(record.mean(dim=(2, 3)), logits, **EXACT)
    with pytest.raises(RuntimeError, match=r'has 2 record\(s\).*record_idx=2'):
        recorder.get_record(record_idx=2)


def test_attached_again(images):
    """The hook stays, moves to a new neck, and sees a new head."""
    model = network()
    recorder = attached(model)
    handle = recorder._handle
    recorder.initialize(model)
    # The same one, or a compiled step would be compiled again.
    assert recorder._handle is handle
    model.neck = GlobalAveragePooling()
    model.head = LinearClsHead(num_classes=7, in_channels=4).double()
    recorder.initialize(model)
    assert hook_count(model) == 1
    with recorder:
        logits = model(images)
    assert_close(recorder.get_record().mean(dim=(2, 3)), logits, **EXACT)
    # A new layer in the same head needs no attaching.
    model.head.fc = nn.Linear(4, 2).double()
    with recorder:
        assert model(images).shape == recorder.get_record().shape[:2]
    recorder.remove()
    assert hook_count(model) == 0
    with recorder:
        model(images)
    assert recorder.records == []


def test_another_form_is_noticed_when_attached_again():
    model = network()
    recorder = attached(model)
    model.head.fc = nn.Sequential(model.head.fc)
    with pytest.raises(ValueError, match=r'has as head.fc a Sequential'):
        recorder.initialize(model)


# Of two stages, since the teacher of the toys has one: both map sizes occur.
def distilled():
    maps = dict(map=dict(type='LogitMapOutputs', grid_size=4))
    return algorithm(
        student=architecture(stages=2),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=maps,
            teacher_recorders=maps,
            distill_losses=dict(loss_map=dict(type='L1Loss')),
            loss_forward_mappings=dict(loss_map=sources('map')),
        ),
    )


def explicit_loss(model, images):
    """The L1 distance of both maps, put together by hand."""
    maps = []
    for net in (model.student, model.teacher):
        feature = adaptive_avg_pool2d(net.backbone(images)[-1], 4)
        kernel = net.head.fc.weight[:, :, None, None]
        maps.append(conv2d(feature, kernel, net.head.fc.bias))
    return (maps[0] - maps[1]).abs().mean()


def test_in_a_distillation(images):
    model = distilled()
    terms = model(images.float(), mode='loss')
    assert_close(
        terms['distill.loss_map'], explicit_loss(model, images.float())
    )
    terms['distill.loss_map'].backward()
    assert model.student.head.fc.weight.grad.abs().max() > 0
    assert model.student.backbone.conv1.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.teacher.parameters())
    assert set(model.state_dict()) == {
        f'student.{key}' for key in model.student.state_dict()
    }


@pytest.mark.parametrize('copier', ['deepcopy', 'pickle'])
def test_a_copy_after_a_step_records_itself(images, copier):
    model, x = distilled(), images.float()
    model(x, mode='loss')['distill.loss_map'].backward()
    if copier == 'deepcopy':
        other = copy.deepcopy(model)
    else:
        other = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for net in (other.student, other.teacher):
            net.head.fc.weight.mul_(-3)
    for net in (other.train(), model):
        found = net(x, mode='loss')['distill.loss_map']
        assert_close(found, explicit_loss(net, x))
    assert hook_count(other.student) == hook_count(other.teacher) == 1


def test_synchronised_batch_norm(images):
    """The engine puts it in after the model, with its hooks, is built."""
    model = distilled()
    model.student = nn.SyncBatchNorm.convert_sync_batchnorm(model.student)
    model.train()
    assert hook_count(model.student) == 1
    # Synchronised batch norm has no kernel for the CPU in training.
    model.student.eval()
    found = model(images.float(), mode='loss')['distill.loss_map']
    assert_close(found, explicit_loss(model, images.float()))


def test_hooks_go_with_the_distiller():
    model = distilled()
    student, frozen = model.student, model.teacher
    assert hook_count(student) == hook_count(frozen) == 1
    del model
    gc.collect()
    assert hook_count(student) == hook_count(frozen) == 0


def test_compiled_step_gives_the_same(images):
    x = images.float()
    torch._dynamo.reset()
    model = distilled()
    expected = model(x, mode='loss')['distill.loss_map']
    found = torch.compile(model, backend='eager')(x, mode='loss')
    assert_close(found['distill.loss_map'], expected)


# ----------------------------------------------------------------- errors


class OtherHead(LinearClsHead):
    def forward(self, feats):
        return super().forward(feats) * 2


class OtherFeature(LinearClsHead):
    def pre_logits(self, feats):
        return feats[0]


class OtherLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class OnlyLoss(LinearClsHead):
    """Changes what is not asked for here."""

    def loss(self, feats, data_samples, **kwargs):
        return dict(loss=self(feats).sum())


def changed(**parts):
    config = architecture()
    config.update(parts)
    return config


HEAD = dict(num_classes=CLASSES, in_channels=4)
OTHER_FORMS = {
    'no neck': (changed(neck=None), 'the model has as neck none'),
    'other neck': (
        changed(neck=dict(type='GeneralizedMeanPooling')),
        'has as neck a GeneralizedMeanPooling',
    ),
    'neck of another dimension': (
        changed(neck=dict(type='GlobalAveragePooling', dim=1)),
        'has as neck a GlobalAveragePooling with AdaptiveAvgPool1d',
    ),
    'no head': (changed(head=None), 'has as head none'),
    'stacked head': (
        changed(
            head=dict(type='StackedLinearClsHead', mid_channels=[3], **HEAD)
        ),
        'has as head a StackedLinearClsHead',
    ),
    'head of several labels': (
        changed(head=dict(type='MultiLabelLinearClsHead', **HEAD)),
        'has as head a MultiLabelLinearClsHead',
    ),
    'other forward': (
        changed(head=OtherHead(**HEAD)),
        'has as head a OtherHead',
    ),
    'other feature': (
        changed(head=OtherFeature(**HEAD)),
        'has as head a OtherFeature',
    ),
    'transformer': (
        changed(
            backbone=dict(
                type='VisionTransformer',
                arch=dict(
                    embed_dims=8,
                    num_layers=1,
                    num_heads=1,
                    feedforward_channels=8,
                ),
                img_size=8,
                patch_size=4,
            ),
            neck=None,
            head=dict(
                type='VisionTransformerClsHead',
                num_classes=CLASSES,
                in_channels=8,
            ),
        ),
        'has as neck none',
    ),
    'timm': (
        dict(
            type='mmpretrain.TimmClassifier',
            model_name='resnet18',
            num_classes=CLASSES,
        ),
        'the model is a TimmClassifier',
    ),
    'torchvision': (
        dict(
            type='TorchvisionClassifier',
            model_name='resnet18',
            num_classes=CLASSES,
        ),
        'the model is a TorchvisionClassifier',
    ),
}


@pytest.mark.parametrize('name', OTHER_FORMS)
def test_models_of_another_form(name):
    config, found = OTHER_FORMS[name]
    model = MODELS.build(config)
    recorder = LogitMapOutputs()
    with pytest.raises(
        ValueError,
        match=r'needs an ImageClassifier .* GlobalAveragePooling .*'
        rf'LinearClsHead.* {found}.*\. Where .* ModuleOutputs',
    ):
        recorder.initialize(model)
    assert hook_count(model) == 0


def test_layer_with_a_forward_pass_of_its_own():
    model = network()
    model.head.fc = OtherLinear(4, CLASSES)
    with pytest.raises(ValueError, match=r'has as head.fc a OtherLinear'):
        attached(model)


def test_subclasses_that_change_nothing_here(images):
    model = MODELS.build(changed(head=OnlyLoss(**HEAD))).eval()
    record, logits = recorded(model, images.float())
    assert_close(record.mean(dim=(2, 3)), logits)


def test_wrong_source():
    model = nn.Sequential(network())
    with pytest.raises(ValueError, match=r"no module 'hed'; nearest: 0.head"):
        attached(model, 'hed')
    with pytest.raises(ValueError, match=r"but '0.head' is a LinearClsHead"):
        attached(model, '0.head')
    with pytest.raises(ValueError, match=r'but the model is a Sequential'):
        attached(model)
    with pytest.raises(ValueError, match=r'source must be .* got None'):
        LogitMapOutputs(None)


@pytest.mark.parametrize('size', [0, -1, 4.0, True, '4', (4, 4)])
def test_wrong_grid_size(size):
    with pytest.raises(ValueError, match=r'grid_size must be None or an int'):
        TASK_UTILS.build(dict(type='LogitMapOutputs', grid_size=size))
