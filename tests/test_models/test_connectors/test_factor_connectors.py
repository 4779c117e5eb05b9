"""Both stages of factor transfer, and a frozen paraphraser."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.testing import assert_close
from toys import architecture, teacher

from mmkd_plugin.models import (
    FTLoss,
    ParaphraserConnector,
    SingleTeacherDistill,
    TranslatorConnector,
)

MAPS = dict(map=dict(type='ModuleOutputs', source='backbone.layer1'))
PREFIX = 'distiller.connectors.paraphraser'


def first_stage():
    source = dict(from_student=False, recorder='map')
    return dict(
        type='ConfigurableDistiller',
        teacher_recorders=MAPS,
        connectors=dict(
            paraphraser=dict(
                type='ParaphraserConnector', in_channels=4, out_channels=2
            )
        ),
        distill_losses=dict(loss_paraphrase=dict(type='L1Loss')),
        loss_forward_mappings=dict(
            loss_paraphrase=dict(
                preds_S=dict(source, connector='paraphraser', connector_idx=1),
                preds_T=source,
            )
        ),
    )


def second_stage(checkpoint, **options):
    source = dict(recorder='map')
    return dict(
        type='ConfigurableDistiller',
        student_recorders=MAPS,
        teacher_recorders=MAPS,
        connectors=dict(
            paraphraser=dict(
                type='ParaphraserConnector',
                in_channels=4,
                out_channels=2,
                checkpoint=checkpoint,
                prefix=PREFIX,
            ),
            translator=dict(
                type='TranslatorConnector', in_channels=3, out_channels=2
            ),
        ),
        distill_losses=dict(loss_ft=dict(type='FTLoss', loss_weight=500.0)),
        loss_forward_mappings=dict(
            loss_ft=dict(
                preds_S=dict(
                    source, from_student=True, connector='translator'
                ),
                preds_T=dict(
                    source,
                    from_student=False,
                    connector='paraphraser',
                    **options,
                ),
            )
        ),
    )


def algorithm(distiller, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return SingleTeacherDistill(
            student=architecture(3),
            teacher=teacher(),
            distiller=distiller,
            calculate_student_loss=False,
            **options,
        ).train()


def optimizer(model):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.3))


@pytest.fixture
def images(seed):
    return torch.randn(8, 3, 4, 4)


@pytest.fixture
def first(images, tmp_path):
    """The model of a first stage, and its checkpoint."""
    model = algorithm(first_stage(), student_trainable=False)
    path = tmp_path / 'first.pth'
    wrapper = optimizer(model)
    values = [
        model.train_step(dict(inputs=images), wrapper)['loss'].item()
        for _ in range(10)
    ]
    assert values[-1] < 0.98 * values[0]
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return model, str(path)


def test_first_stage_compares_the_reconstruction(images):
    model = algorithm(first_stage(), student_trainable=False)
    (value,) = model(images, mode='loss').values()
    feature = model.teacher.backbone(images)[-1]
    made = model.distiller.connectors['paraphraser'](feature)[1]
    assert made.shape == feature.shape
    assert_close(value, (made - feature).abs().mean())


def test_first_stage_does_without_the_student(images):
    model = algorithm(first_stage(), student_trainable=False)
    ran = []
    model.student.backbone.register_forward_hook(lambda *_: ran.append(1))
    model(images, mode='loss')
    assert not ran


def test_second_stage(first, images):
    before, path = first
    model = algorithm(second_stage(path))
    paraphraser = model.distiller.connectors['paraphraser']
    trained = before.distiller.connectors['paraphraser'].state_dict()
    (value,) = model(images, mode='loss').values()
    with torch.no_grad():
        feature = model.teacher.backbone(images)[-1]
        factor = before.distiller.connectors['paraphraser'](feature)[0]
        own = copy.deepcopy(model.student).backbone(images)[-1]
        own = model.distiller.connectors['translator'](own)
    assert_close(value.detach(), 500 * FTLoss()(own, factor))
    wrapper = optimizer(model)
    start = copy.deepcopy(model.state_dict())
    for _ in range(3):
        model.train_step(dict(inputs=images), wrapper)
    model.init_weights()
    assert_close(paraphraser.state_dict(), trained, rtol=0, atol=0)
    assert not any(p.requires_grad for p in paraphraser.parameters())
    name = 'distiller.connectors.translator.encoder.0.weight'
    assert not torch.equal(model.state_dict()[name], start[name])


def test_frozen_paraphraser_keeps_its_statistics(tmp_path, seed):
    options = dict(norm_cfg=dict(type='BN'))
    trained = ParaphraserConnector(4, 2, **options)
    for _ in range(3):
        trained(3 + torch.randn(4, 4, 3, 3))
    path = str(tmp_path / 'alone.pth')
    torch.save(trained.state_dict(), path)
    frozen = ParaphraserConnector(4, 2, checkpoint=path, **options)
    assert not any(m.training for m in frozen.modules())
    feature = torch.randn(2, 4, 3, 3)
    expected = trained.eval()(feature)[0]
    for mode in (True, False):
        assert frozen.train(mode) is frozen
        assert not any(m.training for m in frozen.modules())
        value = frozen(feature)
        assert not value.requires_grad
        assert_close(value, expected)
    assert_close(frozen.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_frozen_paraphraser_does_not_run_its_decoder(first):
    frozen = ParaphraserConnector(4, 2, checkpoint=first[1], prefix=PREFIX)
    frozen.decoder.register_forward_hook(lambda *_: pytest.fail())
    frozen(torch.zeros(1, 4, 3, 3))


def test_factor_is_no_tuple_in_the_second_stage(first, images):
    model = algorithm(second_stage(first[1], connector_idx=1))
    with pytest.raises(ValueError, match='there is no connector_idx=1'):
        model(images, mode='loss')


def test_parents_initialisation_does_not_reset_it(first):
    init = dict(type='Constant', layer='Conv2d', val=0.5)
    model = algorithm(second_stage(first[1]), init_cfg=init)
    model.init_weights()
    found = model.distiller.connectors
    trained = first[0].distiller.connectors['paraphraser']
    assert_close(
        found['paraphraser'].state_dict(), trained.state_dict(), rtol=0, atol=0
    )
    assert (found['translator'].encoder[0].weight == 0.5).all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(prefix='distiller.connectors.paraphrase'),
            r"got 'distiller\.connectors\.paraphrase'; nearest: "
            r'distiller\.connectors\.paraphraser',
        ),
        (dict(prefix=''), 'paraphraser: the weights from .* do not fit'),
        (
            dict(prefix=PREFIX, in_channels=6),
            r'7 of another shape: encoder.0.weight: checkpoint \(4, 4, 3, 3\)'
            r' vs model \(6, 6, 3, 3\)',
        ),
        (
            dict(prefix=PREFIX, norm_cfg=dict(type='BN')),
            'do not fit the model',
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit(first, options, message):
    with pytest.raises(ValueError, match=message):
        ParaphraserConnector(
            **{
                'in_channels': 4,
                'out_channels': 2,
                'checkpoint': first[1],
                **options,
            }
        )


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        ParaphraserConnector(4, 2, checkpoint=str(tmp_path / 'gone.pth'))


@pytest.mark.parametrize(
    'connector', [TranslatorConnector, ParaphraserConnector]
)
def test_init_cfg_takes_effect(connector):
    built = connector(
        2, 3, init_cfg=dict(type='Constant', layer='Conv2d', val=3.0, bias=5.0)
    )
    built.init_weights()
    weights = dict(built.encoder.named_parameters())
    assert len(weights) == 6
    assert {w.unique().item() for w in weights.values()} == {3.0, 5.0}
