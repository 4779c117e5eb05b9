import math

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.testing import assert_close
from toys import CLASSES

from mmkd_plugin.models import (
    ConfigurableDistiller,
    HCLLoss,
    ReviewConnector,
    SingleTeacherDistill,
)

WIDTHS = [64, 128, 256, 256]
SIDES = [8, 4, 2, 1]


def network(depth):
    """ResNet-8x4 or its teacher; images of 8x8 have maps of 8, 4 and 2."""
    return dict(
        type='mmpretrain.ImageClassifier',
        _scope_='mmpretrain',
        backbone=dict(type='CifarResNet', depth=depth, width=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=256),
    )


def levels(student):
    """Get the sources of the four levels of one side."""
    side = dict(from_student=student)
    # In front of the second ReLU of a stage's last block.
    tap = dict(side) if student else dict(side, record_idx=1, data_idx=0)
    deep = dict(side, recorder='back', data_idx=-1, connector='pool')
    return [*(dict(tap, recorder=f'layer{k}') for k in (1, 2, 3)), deep]


def distiller(swapped=False):
    """Get the config of the published method, without its warm-up."""
    first, *deeper = levels(student=True)
    inputs = {f'level{k}': source for k, source in enumerate(deeper, 2)}
    if swapped:
        inputs = dict(reversed(inputs.items()))
    review = dict(first, connector='review', connector_inputs=inputs)
    mappings = {
        f'loss_level{k + 1}': dict(
            preds_S=dict(review, connector_idx=k), preds_T=target
        )
        for k, target in enumerate(levels(student=False))
    }
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            **{
                f'layer{k}': dict(
                    type='ModuleOutputs', source=f'backbone.layer{k}'
                )
                for k in (1, 2, 3)
            },
            back=dict(type='ModuleOutputs', source='backbone'),
        ),
        teacher_recorders=dict(
            **{
                f'layer{k}': dict(
                    type='ModuleInputs', source=f'backbone.layer{k}.0.relu'
                )
                for k in (1, 2, 3)
            },
            back=dict(type='ModuleOutputs', source='backbone'),
        ),
        connectors=dict(
            review=dict(
                type='ReviewConnector',
                in_channels=WIDTHS,
                out_channels=WIDTHS,
            ),
            pool=dict(type='PoolConnector', size=1),
        ),
        distill_losses={
            name: dict(type='HCLLoss', loss_weight=5.0) for name in mappings
        },
        loss_forward_mappings=mappings,
    )


def algorithm(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SingleTeacherDistill(
            student=network(8),
            teacher=MODELS.build(network(8)),
            distiller=distiller(**options),
            calculate_student_loss=False,
        )


@pytest.fixture
def images(seed):
    return torch.randn(4, 3, 8, 8)


def test_the_whole_method(images):
    model = algorithm().train()
    review = model.distiller.connectors['review']
    calls = []
    review.register_forward_hook(lambda *call: calls.append(call[2]))
    terms = model(images, mode='loss')
    assert len(terms) == 4
    # One run for all four losses, so that running statistics move once.
    assert len(calls) == 1
    for k in range(4):
        norm = review.fusions[k].reduce[1]
        assert norm.num_batches_tracked == 1
    assert [tuple(m.shape) for m in calls[0]] == [
        (4, width, side, side)
        for width, side in zip(WIDTHS, SIDES, strict=True)
    ]
    # The teacher's maps have not been rectified, the pooled one has.
    relus = []
    for k in (1, 2, 3):
        block = getattr(model.teacher.backbone, f'layer{k}')[-1]
        block.register_forward_hook(lambda *call: relus.append(call[2]))
    seen = {}
    model.distiller.distill_losses['loss_level3'].register_forward_hook(
        lambda module, args, kwargs, out: seen.update(kwargs),
        with_kwargs=True,
    )
    again = model(images, mode='loss')
    assert (seen['preds_T'] < 0).any()
    assert_close(seen['preds_T'].clamp(min=0), relus[2])
    pooled = relus[2].mean((2, 3), keepdim=True)
    assert_close(
        again['distill.loss_level4'],
        5 * HCLLoss()(calls[1][3], pooled),
    )
    sum(again.values()).backward()
    for name, parameter in model.named_parameters():
        if 'head' not in name:
            assert parameter.grad.abs().sum() > 0, name


def test_levels_go_by_name_not_by_order(images):
    one, other = algorithm().train(), algorithm(swapped=True).train()
    names = list(
        other.distiller.loss_forward_mappings['loss_level1']['preds_S'][
            'connector_inputs'
        ]
    )
    assert names == ['level4', 'level3', 'level2']
    assert one(images, mode='loss') == other(images, mode='loss')


def test_published_widths():
    connector = ReviewConnector(WIDTHS, WIDTHS)
    assert {f.reduce[0].out_channels for f in connector.fusions} == {256}
    wide = ReviewConnector([64, 1024], [256, 2048])
    assert {f.reduce[0].out_channels for f in wide.fusions} == {512}
    narrow = ReviewConnector([64, 1024], [256, 2048], mid_channels=256)
    assert {f.expand[0].in_channels for f in narrow.fusions} == {256}
    # 1x1, 3x3, the attention of all but the deepest, two norms each.
    expected = sum(
        width * 256 + 9 * 256 * width + 2 * 256 + 2 * width for width in WIDTHS
    ) + 3 * (2 * 512 + 2)
    assert sum(p.numel() for p in connector.parameters()) == expected


def test_published_start():
    """Uniform, with the bound sqrt(3 / fan in)."""
    connector = ReviewConnector([64, 128], [64, 128])
    for fusion in connector.fusions:
        for conv in (fusion.reduce[0], fusion.expand[0]):
            weight = conv.weight.detach()
            bound = math.sqrt(3 / weight[0].numel())
            assert bound * 0.98 < weight.abs().max() <= bound
            assert abs(weight.mean()) < bound / 20


def test_init_cfg_takes_effect():
    connector = ReviewConnector(
        [2, 3], [3, 2], init_cfg=dict(type='Constant', layer='Conv2d', val=2)
    )
    connector.init_weights()
    convs = [m for m in connector.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 5
    assert all((conv.weight == 2).all() for conv in convs)


def test_deepest_stage_reaches_all_others(seed):
    connector = ReviewConnector([2, 3, 4], [2, 3, 4])
    maps = [
        torch.randn(3, width, side, side, requires_grad=True)
        for width, side in ((2, 8), (3, 4), (4, 1))
    ]
    inputs = dict(level2=maps[1], level3=maps[2])
    outputs = connector(maps[0], **inputs)
    for k, output in enumerate(outputs):
        grads = torch.autograd.grad(
            output.square().sum(),
            maps,
            retain_graph=True,
            allow_unused=True,
        )
        assert [g is not None for g in grads] == [j >= k for j in range(3)]


def test_sizes_of_the_teacher(seed):
    """ShuffleNet's maps are 16, 8 and 4 where the teacher's are 32, 16, 8."""
    connector = ReviewConnector(
        [2, 3, 4, 4], [5, 6, 7, 7], out_sizes=[32, 16, 8, 1]
    )
    sides = [16, 8, 4, 1]
    maps = [
        torch.randn(2, width, side, side)
        for width, side in zip([2, 3, 4, 4], sides, strict=True)
    ]
    outputs = connector(
        maps[0], level2=maps[1], level3=maps[2], level4=maps[3]
    )
    assert [tuple(m.shape) for m in outputs] == [
        (2, 5, 32, 32),
        (2, 6, 16, 16),
        (2, 7, 8, 8),
        (2, 7, 1, 1),
    ]


def test_a_stage_that_is_not_given():
    """The distiller misses it when it is built."""
    config = distiller()
    for mapping in config['loss_forward_mappings'].values():
        inputs = mapping['preds_S']['connector_inputs']
        mapping['preds_S']['connector_inputs'] = {
            key: source for key, source in inputs.items() if key != 'level3'
        }
    config.pop('type')
    with pytest.raises(
        ValueError, match=r"'loss_level1'.*ReviewConnector.* needs level3,"
    ):
        ConfigurableDistiller(**config)
