import copy
import gc
import math
import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.functional import l1_loss
from torch.testing import assert_close
from toys import eeikd_distiller, kd_distiller, sources

from mmkd_plugin.models import (
    ClassDropMask,
    ConfigurableDistiller,
    KLDivergence,
    LinearConnector,
)


@MODELS.register_module()
class EchoLoss(nn.Module):
    """Keeps what it was given; the result is the sum of the first."""

    def forward(self, preds_S, preds_T=None, *, gt_label=None, **others):
        self.given = dict(
            preds_S=preds_S, preds_T=preds_T, gt_label=gt_label, **others
        )
        return preds_S.sum()


@MODELS.register_module()
class SplitConnector(nn.Module):
    """Returns a tuple."""

    def forward(self, feature):
        return feature[:, :1], feature[:, 1:]


@MODELS.register_module()
class AddConnector(nn.Module):
    """Takes more than one record."""

    def forward(self, feature, other, *more, scale=1.0):
        return feature + other * scale


class Net(nn.Module):
    """Two layers of 4, called by names that recorders can have."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.stem(x).relu_())


OUT = dict(type='ModuleOutputs', source='head')
STEM = dict(type='ModuleOutputs', source='stem')
HEAD_IN = dict(type='ModuleInputs', source='head')


def distiller(recorders=None, mapping=None, loss='EchoLoss', **options):
    """Build a distiller with one loss and the same recorders on each side."""
    recorders = recorders or dict(out=OUT)
    config = dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_echo=dict(type=loss)),
        loss_forward_mappings=dict(
            loss_echo=sources('out') if mapping is None else mapping
        ),
    )
    config.update(options)
    return MODELS.build(config)


def with_inputs(connector, **inputs):
    """Get a mapping with further inputs of the student's connector."""
    mapping = sources('out')
    mapping['preds_S'].update(connector=connector, connector_inputs=inputs)
    return mapping


@pytest.fixture
def nets(seed):
    return Net(), Net()


def record(made, nets, x=None):
    x = torch.randn(3, 4) if x is None else x
    student, teacher = nets
    made.prepare_from_student(student)
    made.prepare_from_teacher(teacher)
    with made.record_teacher():
        out_T = teacher(x)
    with made.record_student():
        out_S = student(x)
    return out_S, out_T


def given(made):
    return made.distill_losses['loss_echo'].given


# --------------------------------------------------------------- wiring


def test_records_reach_the_loss(nets):
    made = distiller()
    out_S, out_T = record(made, nets)
    losses = made.compute_distill_losses()
    assert list(losses) == ['loss_echo']
    assert torch.equal(given(made)['preds_S'], out_S)
    assert torch.equal(given(made)['preds_T'], out_T)
    assert_close(losses['loss_echo'], out_S.sum())


def test_each_loss_has_its_own_entry_and_value(nets):
    recorders = dict(out=OUT, stem=STEM)
    made = distiller(
        recorders,
        distill_losses=dict(
            loss_kl=dict(type='KLDivergence', tau=4.0),
            stem_loss=dict(type='L1Loss', loss_weight=3.0),
        ),
        loss_forward_mappings=dict(
            loss_kl=sources('out'), stem_loss=sources('stem')
        ),
    )
    x = torch.randn(3, 4)
    out_S, out_T = record(made, nets, x)
    losses = made.compute_distill_losses()
    assert list(losses) == ['loss_kl', 'stem_loss']
    assert_close(losses['loss_kl'], KLDivergence(tau=4.0)(out_S, out_T))
    # The stem's outputs before the ReLU in place.
    stem_S, stem_T = (net.stem(x) for net in nets)
    assert_close(losses['stem_loss'], 3 * l1_loss(stem_S, stem_T))


def test_record_idx_and_data_idx(nets):
    mapping = dict(
        preds_S=dict(
            from_student=True, recorder='inp', record_idx=1, data_idx=0
        ),
        preds_T=dict(from_student=False, recorder='inp', data_idx=-1),
    )
    made = distiller(dict(inp=HEAD_IN), mapping)
    for prepare, net in zip(
        (made.prepare_from_student, made.prepare_from_teacher),
        nets,
        strict=True,
    ):
        prepare(net)
    values = [torch.full((1, 4), float(i)) for i in range(3)]
    with made.record_student():
        for value in values:
            nets[0].head(value)
    with made.record_teacher():
        nets[1].head(values[2])
    made.compute_distill_losses()
    assert torch.equal(given(made)['preds_S'], values[1])
    assert torch.equal(given(made)['preds_T'], values[2])


def test_from_batch(nets):
    mapping = dict(
        preds_S=dict(from_student=True, recorder='out'),
        preds_T=dict(from_student=False, recorder='out'),
        gt_label=dict(from_batch='gt_label'),
        index=dict(from_batch='sample_idx'),
        images=dict(from_batch='inputs'),
    )
    made = distiller(mapping=mapping)
    assert made.batch_sources() == {'gt_label', 'sample_idx', 'inputs'}
    record(made, nets)
    batch = {name: torch.rand(3) for name in made.batch_sources()}
    made.compute_distill_losses(batch)
    assert given(made)['gt_label'] is batch['gt_label']
    assert given(made)['index'] is batch['sample_idx']
    assert given(made)['images'] is batch['inputs']


def test_batch_sources_of_plain_mappings_are_none():
    assert distiller().batch_sources() == set()


# ----------------------------------------------------------- connectors


def test_connector_on_one_side(nets):
    made = distiller(
        connectors=dict(wide=dict(type='LinearConnector', **WIDTHS)),
        mapping=dict(
            preds_S=dict(from_student=True, recorder='out', connector='wide'),
            preds_T=dict(from_student=False, recorder='out'),
        ),
    )
    assert isinstance(made.connectors['wide'], LinearConnector)
    out_S, out_T = record(made, nets)
    made.compute_distill_losses()['loss_echo'].backward()
    assert torch.equal(given(made)['preds_S'], made.connectors['wide'](out_S))
    assert torch.equal(given(made)['preds_T'], out_T)
    # It is trained with the student.
    assert all(p.grad is not None for p in made.parameters())
    assert set(made.state_dict()) == {
        'connectors.wide.linear.weight',
        'connectors.wide.linear.bias',
    }


WIDTHS = dict(in_channels=4, out_channels=6)


def test_list_of_connectors_is_a_sequence(nets):
    made = distiller(
        connectors=dict(
            chain=[
                dict(type='LinearConnector', **WIDTHS),
                dict(type='ClassDropMask', num_dropped=2),
            ]
        ),
        mapping=sources('out', 'chain'),
    )
    chain = made.connectors['chain']
    assert isinstance(chain, nn.Sequential)
    _, out_T = record(made, nets)
    made.compute_distill_losses()
    linear, mask = chain
    assert torch.equal(given(made)['preds_T'], mask(linear(out_T)))


def test_init_cfg_of_connectors_takes_effect():
    """Alone and in a list; torch's containers would keep it away."""
    linear = dict(
        type='LinearConnector',
        **WIDTHS,
        init_cfg=dict(type='Constant', layer='Linear', val=3.0),
    )
    made = distiller(
        connectors=dict(one=linear, many=[linear]),
        mapping=dict(
            preds_S=dict(from_student=True, recorder='out', connector='one'),
            preds_T=dict(from_student=False, recorder='out', connector='many'),
        ),
    )
    made.init_weights()
    assert (made.connectors['one'].linear.weight == 3).all()
    assert (made.connectors['many'][0].linear.weight == 3).all()


def test_connector_idx(nets):
    made = distiller(
        connectors=dict(split=dict(type='SplitConnector')),
        mapping=dict(
            preds_S=dict(
                from_student=True,
                recorder='out',
                connector='split',
                connector_idx=1,
            ),
            preds_T=dict(
                from_student=False,
                recorder='out',
                connector='split',
                connector_idx=0,
            ),
        ),
    )
    out_S, out_T = record(made, nets)
    made.compute_distill_losses()
    assert torch.equal(given(made)['preds_S'], out_S[:, 1:])
    assert torch.equal(given(made)['preds_T'], out_T[:, :1])


def test_connector_idx_of_a_tensor_is_a_mistake(nets):
    """It would be one of the samples."""
    made = distiller(
        connectors=dict(mask=dict(type='ClassDropMask')),
        mapping=sources('out', 'mask', connector_idx=None),
    )
    made.loss_forward_mappings['loss_echo']['preds_T']['connector_idx'] = 1
    record(made, nets)
    with pytest.raises(
        ValueError, match=r"'mask' returned a tensor, .* connector_idx=1"
    ):
        made.compute_distill_losses()


def test_mask_of_both_sides(nets):
    mapping = dict(
        preds_S=dict(
            from_student=True,
            recorder='out',
            connector='mask',
            connector_inputs=dict(
                reference=dict(from_student=False, recorder='out')
            ),
        ),
        preds_T=dict(from_student=False, recorder='out', connector='mask'),
    )
    made = distiller(
        connectors=dict(mask=dict(type='ClassDropMask', num_dropped=2)),
        mapping=mapping,
    )
    # The connector's docstring shows this mapping.
    assert 'reference=dict(from_student=False' in ClassDropMask.__doc__
    out_S, out_T = record(made, nets)
    made.compute_distill_losses()
    mask = ClassDropMask(num_dropped=2)
    masked_T = mask(out_T)
    assert torch.equal(given(made)['preds_T'], masked_T)
    assert torch.equal(given(made)['preds_S'].isneginf(), masked_T.isneginf())
    assert not torch.equal(mask(out_S).isneginf(), masked_T.isneginf())


def test_connector_inputs_have_connectors_and_batch_sources(nets):
    made = distiller(
        dict(out=OUT, stem=STEM),
        connectors=dict(
            add=dict(type='AddConnector'), mask=dict(type='ClassDropMask')
        ),
        mapping=dict(
            preds_S=dict(
                from_student=True,
                recorder='out',
                connector='add',
                connector_inputs=dict(
                    other=dict(
                        from_student=False, recorder='out', connector='mask'
                    ),
                    scale=dict(from_batch='gt_label'),
                ),
            ),
            preds_T=dict(
                from_student=False,
                recorder='stem',
                connector='add',
                connector_inputs=dict(
                    other=dict(from_student=True, recorder='stem')
                ),
            ),
        ),
    )
    assert made.batch_sources() == {'gt_label'}
    out_S, out_T = record(made, nets)
    made.compute_distill_losses(dict(gt_label=2.0))
    assert torch.equal(
        given(made)['preds_S'], out_S + 2 * ClassDropMask()(out_T)
    )
    with pytest.raises(KeyError):
        made.compute_distill_losses()


# --------------------------------------------------------------- errors

ERRORS = {
    'no loss': (
        dict(distill_losses={}, loss_forward_mappings={}),
        'distill_losses is empty',
    ),
    'mapping of an unknown loss': (
        dict(
            loss_forward_mappings=dict(
                loss_echo=sources('out'), loss_ecko=sources('out')
            )
        ),
        "has 'loss_ecko', which is no loss .*; nearest: loss_echo",
    ),
    'loss without mapping': (
        dict(
            distill_losses=dict(
                loss_echo=dict(type='EchoLoss'), loss_b=dict(type='EchoLoss')
            )
        ),
        "'loss_b' has no entry in loss_forward_mappings",
    ),
    'name without loss': (
        dict(
            distill_losses=dict(kl=dict(type='EchoLoss')),
            loss_forward_mappings=dict(kl=sources('out')),
        ),
        'name of a loss must contain "loss".*\'kl\' does not',
    ),
    'mapping that is no dict': (
        dict(loss_forward_mappings=dict(loss_echo=['out'])),
        r"\['loss_echo'\] must be a dict, but got \['out'\]",
    ),
    'unknown argument': (
        dict(
            loss='L1Loss',
            mapping=dict(sources('out'), pred_T=dict(from_batch='gt_label')),
        ),
        "L1Loss.forward has no argument 'pred_T'; nearest: preds_T",
    ),
    'missing argument': (
        dict(
            loss='L1Loss',
            mapping=dict(preds_S=sources('out')['preds_S']),
        ),
        'L1Loss.forward needs preds_T, which the mapping does not give',
    ),
    'missing arguments': (
        dict(loss='L1Loss', mapping={}),
        'L1Loss.forward needs preds_S, preds_T, which',
    ),
    'source that is no dict': (
        dict(mapping=dict(sources('out'), preds_T='out')),
        r"\['loss_echo'\]\['preds_T'\] must be a dict, but got 'out'",
    ),
    'misspelt key': (
        dict(mapping=sources('out', data_index=0)),
        r"\['preds_S'\] has the unknown key 'data_index'; nearest: data_idx",
    ),
    'no side': (
        dict(mapping=dict(preds_S=dict(recorder='out'))),
        'needs from_student=True or False, but has None',
    ),
    'side that is no bool': (
        dict(mapping=dict(preds_S=dict(from_student=1, recorder='out'))),
        'needs from_student=True or False, but has 1',
    ),
    'no recorder': (
        dict(mapping=dict(preds_S=dict(from_student=True))),
        r"\['preds_S'\] names no recorder",
    ),
    'unknown recorder': (
        dict(mapping=dict(preds_S=dict(from_student=True, recorder='outs'))),
        "there is no student recorder 'outs'; nearest: out",
    ),
    'unknown recorder of the teacher': (
        dict(mapping=dict(preds_S=dict(from_student=False, recorder=3))),
        'there is no teacher recorder 3; known: out',
    ),
    'unknown connector': (
        dict(
            connectors=dict(mask=dict(type='ClassDropMask')),
            mapping=sources('out', 'mesk'),
        ),
        r"\['preds_T'\]: there is no connector 'mesk'; nearest: mask",
    ),
    'connector_idx alone': (
        dict(mapping=sources('out', connector_idx=0)),
        'has connector_idx, but no connector',
    ),
    'connector_inputs alone': (
        dict(mapping=sources('out', connector_inputs=dict(a={}))),
        'has connector_inputs, but no connector',
    ),
    'unknown connector input': (
        dict(
            connectors=dict(mask=dict(type='ClassDropMask')),
            mapping=with_inputs('mask', logits=sources('out')['preds_T']),
        ),
        "connector_inputs: ClassDropMask.forward has no argument 'logits'; "
        'known: reference',
    ),
    'missing connector input': (
        dict(
            connectors=dict(add=dict(type='AddConnector')),
            mapping=sources('out', 'add'),
        ),
        'connector_inputs: AddConnector.forward needs other, which',
    ),
    'bad source of a connector input': (
        dict(
            connectors=dict(mask=dict(type='ClassDropMask')),
            mapping=with_inputs('mask', reference=dict(from_batch='label')),
        ),
        r"connector_inputs\['reference'\]: from_batch must be one of "
        r".*'gt_label'.*, but got 'label'",
    ),
    'connector input of a sequence': (
        dict(
            connectors=dict(chain=[dict(type='ClassDropMask')]),
            mapping=with_inputs('chain', reference=sources('out')['preds_T']),
        ),
        "Sequential.forward has no argument 'reference'",
    ),
    'unused recorders': (
        dict(recorders=dict(out=OUT, stem=STEM)),
        "nothing .* reads: student 'stem', teacher 'stem' ",
    ),
    'unused connector': (
        dict(connectors=dict(mask=dict(type='ClassDropMask'))),
        "nothing .* reads: connector 'mask'",
    ),
    'unknown batch source': (
        dict(mapping=dict(sources('out'), gt_label=dict(from_batch='gt'))),
        r"\['gt_label'\]: from_batch must be one of .*, but got 'gt'",
    ),
    'batch source with more': (
        dict(
            mapping=dict(
                sources('out'),
                gt_label=dict(from_batch='gt_label', recorder='out'),
            )
        ),
        r"has the unknown key 'recorder'; known: from_batch",
    ),
    'record_idx that is no number': (
        dict(mapping=sources('out', record_idx=None)),
        'record_idx must be an integer, but got None',
    ),
    'data_idx that is neither number nor name': (
        dict(mapping=sources('out', data_idx=[0])),
        r'data_idx must be an integer or a name, but got \[0\]',
    ),
    'connector_idx that is no number': (
        dict(mapping=sources('out', connector_idx='a')),
        "connector_idx must be an integer, but got 'a'",
    ),
    'inputs without data_idx': (
        dict(recorders=dict(inp=HEAD_IN), mapping=sources('inp')),
        r"\['preds_S'\]: ModuleInputs records all arguments .* data_idx, 0",
    ),
    'function inputs without data_idx': (
        dict(
            recorders=dict(
                inp=dict(type='FunctionInputs', source='math.sqrt')
            ),
            mapping=sources('inp'),
        ),
        'FunctionInputs records all arguments',
    ),
    'method inputs without data_idx': (
        dict(
            recorders=dict(
                inp=dict(type='MethodInputs', source='torch.nn.Linear.forward')
            ),
            mapping=sources('inp'),
        ),
        'MethodInputs records all arguments',
    ),
}


@pytest.mark.parametrize('name', ERRORS)
def test_wrong_config(name):
    options, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        distiller(**options)


def test_a_loss_that_takes_anything_has_no_unknown_arguments():
    made = distiller(
        mapping=dict(sources('out'), any=dict(from_batch='inputs'))
    )
    assert made.batch_sources() == {'inputs'}


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_unknown_module(nets, side):
    made = distiller(
        **{
            f'{side}_recorders': dict(
                out=dict(type='ModuleOutputs', source='haed')
            )
        }
    )
    with pytest.raises(
        ValueError,
        match=rf"{side}_recorders\['out'\]: Net has no module 'haed'; "
        'nearest: head',
    ):
        getattr(made, f'prepare_from_{side}')(nets[0])


def test_recorder_that_recorded_nothing_is_an_error(nets):
    made = distiller()
    record(made, nets)
    with made.record_student():
        pass
    with pytest.raises(
        RuntimeError, match="ModuleOutputs on 'head' recorded nothing"
    ):
        made.compute_distill_losses()


def test_error_of_a_loss_names_the_loss(nets):
    made = distiller(loss='L1Loss')
    narrow = Net()
    narrow.head = nn.Linear(4, 3)
    record(made, (nets[0], narrow))
    with pytest.raises(
        ValueError, match=r'^loss_echo: .*got \(3, 4\) and \(3, 3\); put a'
    ):
        made.compute_distill_losses()


def test_tuple_for_a_loss_is_told_how_to_become_a_tensor(nets):
    made = distiller(
        dict(both=dict(type='ModuleOutputs', source='')),
        sources('both'),
        loss='KLDivergence',
    )
    record(made, (Tupled(), Tupled()))
    with pytest.raises(
        ValueError,
        match=r'^loss_echo: preds_S must be a tensor, but got a tuple.*data_i',
    ):
        made.compute_distill_losses()


class Tupled(Net):
    def forward(self, x):
        return (super().forward(x),)


# ----------------------------------------------------------- life cycle


def test_recording_is_for_one_side_and_its_time(nets):
    made = distiller()
    made.prepare_from_student(nets[0])
    made.prepare_from_teacher(nets[1])
    x = torch.zeros(1, 4)
    buffers = [
        made.student_recorders['out'].records,
        made.teacher_recorders['out'].records,
    ]
    for net in nets:
        net(x)
    with made.record_teacher():
        nets[0](x)
    with made.record_student():
        nets[1](x)
    assert buffers == [[], []]
    assert made.student_recorders['out'].records == []
    record(made, nets)
    for net in nets:
        net(x)
    assert len(made.student_recorders['out'].records) == 1
    made.clear()
    assert made.student_recorders['out'].records == []
    assert made.teacher_recorders['out'].records == []


def test_exception_while_recording(nets):
    made = distiller(
        dict(out=OUT, f=dict(type='FunctionOutputs', source='math.sqrt')),
        dict(
            sources('out'),
            a=dict(from_student=True, recorder='f'),
            b=dict(from_student=False, recorder='f'),
        ),
    )
    made.prepare_from_student(nets[0])
    before = math.sqrt
    with pytest.raises(RuntimeError), made.record_student():
        assert math.sqrt is not before
        nets[0](torch.zeros(1, 5))
    assert math.sqrt is before
    assert not any(r.recording for r in made.student_recorders.values())


def hook_count(net):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in net.modules()
    )


@pytest.mark.parametrize('copier', [None, copy.deepcopy, 'pickle'])
def test_hooks_go_with_the_distiller(nets, copier):
    made = distiller(
        dict(out=OUT, inp=HEAD_IN),
        dict(
            preds_S=dict(from_student=True, recorder='out'),
            preds_T=dict(from_student=False, recorder='out'),
            a=dict(from_student=True, recorder='inp', data_idx=0),
            b=dict(from_student=False, recorder='inp', data_idx=0),
        ),
    )
    record(made, nets)
    made.compute_distill_losses()
    made.clear()
    made.distill_losses['loss_echo'].given = None
    if copier == 'pickle':
        made, nets = pickle.loads(pickle.dumps((made, nets)))
    elif copier:
        original = made
        made, nets = copier((made, nets))
    assert [hook_count(net) for net in nets] == [2, 2]
    record(made, nets)
    del made
    gc.collect()
    assert [hook_count(net) for net in nets] == [0, 0]
    if copier is copy.deepcopy:
        assert original.student_recorders['out']._handle is not None


def test_prepared_twice_records_once(nets):
    made = distiller()
    record(made, nets)
    record(made, nets)
    assert hook_count(nets[0]) == 1
    assert len(made.student_recorders['out'].records) == 1


def test_distiller_has_no_state_of_its_own(nets):
    made = distiller()
    record(made, nets)
    assert made.state_dict() == {}
    assert list(made.parameters()) == []


@pytest.mark.parametrize('config', [kd_distiller, eeikd_distiller])
@pytest.mark.parametrize('scope', [None, 'mmpretrain'])
def test_configs_of_the_methods(config, scope):
    plain = config()
    with DefaultScope.overwrite_default_scope(scope):
        for given in (plain, Config(dict(d=plain)).d):
            made = MODELS.build(given)
            assert type(made) is ConfigurableDistiller
    # The config is used as it is, and is still the same after it.
    assert plain == config()
