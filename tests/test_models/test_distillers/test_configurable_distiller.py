import copy
import gc
import math
import pickle
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.registry import MODELS, TASK_UTILS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import l1_loss
from torch.testing import assert_close
from toy_runs import Watcher, build_runner, loader, make_dataset
from toys import algorithm, eeikd_distiller, kd_distiller, sources

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
class ShapedLoss(nn.Module):
    """Returns what it is told to, of the sum of what it was given.

    Args:
        shape (str): What it returns.
        terms (dict): Its log terms, as multiples of the loss.
        loss_weight (float): Weight, whose default is not the usual one.
    """

    def __init__(self, shape='tensor', terms=None, *, loss_weight=5.0):
        super().__init__()
        self.shape = shape
        self.terms = terms
        self.loss_weight = loss_weight

    def forward(self, preds_S):
        loss = self.loss_weight * preds_S.sum()
        if self.terms is not None:
            self.log_terms = {k: v * loss for k, v in self.terms.items()}
        return dict(
            tensor=loss,
            list=[loss, 2 * loss],
            tuple=(loss, 2 * loss),
            dict=dict(a=loss, b=[loss]),
        )[self.shape]


@MODELS.register_module()
class NeedyLoss(EchoLoss):
    """Needs labels, if told so."""

    def __init__(self, needed=('gt_label',)):
        super().__init__()
        self.required_arguments = needed


@TASK_UTILS.register_module()
class Steps:
    """A schedule that notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, epoch, iteration):
        self.asked.append((epoch, iteration))
        return 3.0


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


@pytest.fixture
def images(seed):
    return torch.randn(4, 3, 8, 8)


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


# ----------------------------------------------------------- schedules

WARMUP = dict(type='LinearWarmup', value=2.0, end=4)


def scheduled(loss_weight=WARMUP, name='loss_echo', **options):
    """Build a distiller whose only loss takes the student's output."""
    options = dict(dict(type='ShapedLoss'), **options)
    return distiller(
        student_recorders=dict(out=OUT),
        teacher_recorders=None,
        distill_losses={name: dict(options, loss_weight=loss_weight)},
        loss_forward_mappings={
            name: dict(preds_S=dict(from_student=True, recorder='out'))
        },
    )


def sum_of(made, net):
    """Run the student and get the sum of its output."""
    made.prepare_from_student(net)
    with made.record_student():
        return net(torch.ones(2, 4)).sum()


def test_scheduled_weight_in_a_loop_of_ones_own(nets):
    made = scheduled()
    # Not the loss's own default.
    assert made.distill_losses['loss_echo'].loss_weight == 1.0
    total = sum_of(made, nets[0])
    for epoch, weight in ((0, 0.5), (1, 1.0), (3, 2.0), (50, 2.0)):
        made.set_progress(epoch=epoch)
        loss = made.compute_distill_losses()['loss_echo']
        assert_close(loss, weight * total)
        grad = torch.autograd.grad(loss, nets[0].head.bias, retain_graph=True)[
            0
        ]
        assert_close(grad, torch.full((4,), 2 * weight))


def test_schedule_is_asked_with_epoch_and_iteration(nets):
    made = scheduled(dict(type='Steps'))
    total = sum_of(made, nets[0])
    made.set_progress(2, 17)
    assert_close(made.compute_distill_losses()['loss_echo'], 3 * total)
    made.set_progress(iteration=18)
    made.compute_distill_losses()
    assert made.loss_schedules['loss_echo'].asked == [(2, 17), (None, 18)]


def test_what_a_scheduled_loss_may_return(nets):
    results = {}
    for shape in ('list', 'tuple', 'dict'):
        made = scheduled(shape=shape)
        total = sum_of(made, nets[0])
        made.set_progress(0)
        results[shape] = made.compute_distill_losses()['loss_echo']
    half = 0.5 * total
    assert_close(results['list'], [half, 2 * half])
    assert_close(results['tuple'], (half, 2 * half))
    assert_close(results['dict'], dict(a=half, b=[half]))


def test_without_a_schedule_losses_are_as_they_return(nets):
    for shape in ('list', 'tuple', 'dict'):
        made = scheduled(1.0, shape=shape)
        assert made.loss_schedules == {}
        total = sum_of(made, nets[0])
        # No progress is asked for.
        found = made.compute_distill_losses()['loss_echo']
        loss = made.distill_losses['loss_echo']
        assert_close(found, loss(sum_of(made, nets[0])))
        assert type(found).__name__ == shape
        assert total != 0


def test_schedule_of_a_config_object(nets):
    config = dict(
        type='ConfigurableDistiller',
        student_recorders=dict(out=OUT),
        distill_losses=dict(
            loss_echo=dict(type='ShapedLoss', loss_weight=WARMUP)
        ),
        loss_forward_mappings=dict(
            loss_echo=dict(preds_S=dict(from_student=True, recorder='out'))
        ),
    )
    before = copy.deepcopy(config)
    for given in (config, Config(dict(d=config)).d):
        made = MODELS.build(given)
        assert made.loss_schedules['loss_echo'](3, 0) == 2.0
        # A config is built more than once.
        assert given == before


def test_schedules_are_copied_and_hold_no_state(nets):
    made = scheduled()
    made.set_progress(1)
    assert made.state_dict() == {}
    total = sum_of(made, nets[0])
    made.clear()
    copies = [
        copy.deepcopy((made, nets[0])),
        pickle.loads(pickle.dumps((made, nets[0]))),
    ]
    for other, net in copies:
        other.set_progress(3)
        sum_of(other, net)
        loss = other.compute_distill_losses()['loss_echo']
        assert_close(loss, 2 * total)
    sum_of(made, nets[0])
    assert_close(made.compute_distill_losses()['loss_echo'], total)


@pytest.mark.parametrize(
    'weight, message',
    [
        (
            dict(value=1.0),
            r'loss_weight must be a config with its type, but got',
        ),
        (
            dict(type='LinearWarmup', end=0),
            r'loss_weight: end must be greater than begin=0, but got 0',
        ),
        (
            dict(type='ModuleOutputs', source='head'),
            r'loss_weight: a ModuleOutputs is no schedule',
        ),
    ],
)
def test_wrong_schedule(weight, message):
    with pytest.raises(
        ValueError, match=r"distill_losses\['loss_echo'\]: .*" + message
    ):
        scheduled(weight)


def test_wrong_schedule_of_a_loss_that_checks_numbers():
    """Where schedules are not known: within the config of a loss."""
    with pytest.raises(ValueError, match='loss_weight must be a finite num'):
        KLDivergence(loss_weight=WARMUP)


@pytest.fixture
def hub():
    """The engine's current message hub, new for this test."""
    name = 'hub of a test'
    yield MessageHub.get_instance(name)
    del MessageHub._instance_dict[name]


def test_progress_that_is_set_counts_more_than_that_of_a_runner(nets, hub):
    """One that was interrupted looks as if it were running."""
    made = scheduled()
    total = sum_of(made, nets[0])
    hub.update_info_dict(dict(loop_stage='train', epoch=3, iter=90))
    assert_close(made.compute_distill_losses()['loss_echo'], 2 * total)
    made.set_progress(0)
    assert_close(made.compute_distill_losses()['loss_echo'], total / 2)
    made.set_progress()
    assert_close(made.compute_distill_losses()['loss_echo'], 2 * total)


def test_progress_that_nobody_tells(nets, hub):
    made = scheduled()
    sum_of(made, nets[0])
    with pytest.raises(
        RuntimeError, match=r'no runner .*model\.distiller\.set_progress\(epo'
    ):
        made.compute_distill_losses()
    made.set_progress(iteration=3)
    with pytest.raises(RuntimeError, match=r'LinearWarmup goes by the epoch'):
        made.compute_distill_losses()
    made.set_progress(0)
    made.compute_distill_losses()
    made.set_progress()
    with pytest.raises(RuntimeError, match=r'no runner'):
        made.compute_distill_losses()


@pytest.mark.parametrize('value', [-1, 1.0, True, '1', torch.tensor(1)])
def test_wrong_progress(value):
    made = scheduled()
    for name in ('epoch', 'iteration'):
        wanted = '.*>= 0' if value == -1 else 'an integer'
        got = re.escape(repr(value))
        with pytest.raises(
            ValueError, match=f'{name} must be {wanted}, but got {got}'
        ):
            made.set_progress(**{name: value})


# ------------------------------------------------- schedules in a run


@MODELS.register_module()
class Ones(BaseModel):
    """The term is the weight of the schedule; nothing is learnt."""

    def __init__(self, loss_weight):
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.head.weight)
        self.distiller = scheduled(loss_weight, terms=dict(part=0.5))
        self.distiller.prepare_from_student(self)

    def forward(self, inputs, mode='loss', **more):
        if mode != 'loss':
            return []
        with self.distiller.record_student():
            self.head(inputs.new_ones(1, 1).float())
        losses = self.distiller.compute_distill_losses()
        self.distiller.clear()
        return losses


class Log(Watcher):
    """Notes the loss and its part."""

    def __init__(self):
        super().__init__()
        self.parts = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self.parts.append(outputs['echo_part'].item())


def run_ones(work_dir, loss_weight, hooks=(), **options):
    log = Log()
    options = dict(dict(optim_wrapper=dict(optimizer=FROZEN)), **options)
    train = loader(make_dataset(12))
    runner = build_runner(
        work_dir, Ones(loss_weight), train, [log, *hooks], **options
    )
    runner.train()
    # The term is half of it, and is not added up.
    assert log.parts == pytest.approx([x / 2 for x in log.losses])
    return log.losses


FROZEN = dict(type='SGD', lr=0.0)
BY_ITERATION = dict(train_cfg=dict(by_epoch=False, max_iters=5))


def test_run_by_epoch(tmp_path):
    """12 images in batches of 4."""
    losses = run_ones(tmp_path, WARMUP, epochs=6)
    expected = [w for w in (0.5, 1, 1.5, 2, 2, 2) for _ in range(3)]
    assert losses == pytest.approx(expected)


def test_run_by_iteration(tmp_path):
    weight = dict(WARMUP, begin=1, end=5, by_epoch=False)
    expected = [0, 0.5, 1, 1.5, 2, 2]
    assert run_ones(tmp_path / 'a', weight) == pytest.approx(expected)
    found = run_ones(tmp_path / 'b', weight, **BY_ITERATION)
    assert found == pytest.approx(expected[:5])


def test_run_with_accumulated_gradients_counts_steps_of_the_loop(tmp_path):
    weight = dict(WARMUP, by_epoch=False)
    wrapper = dict(optimizer=FROZEN, accumulative_counts=3)
    losses = run_ones(tmp_path, weight, optim_wrapper=wrapper)
    assert losses == pytest.approx([0.5, 1, 1.5, 2, 2, 2])


def test_resumed_run_goes_on_at_its_weight(tmp_path):
    hooks = [CheckpointHook(interval=1)]
    by_step = dict(WARMUP, end=10, by_epoch=False)
    for name, weight in (('epochs', WARMUP), ('steps', by_step)):
        whole = run_ones(tmp_path / f'{name}_whole', weight, epochs=4)
        folder = tmp_path / name
        first = run_ones(folder, weight, hooks, epochs=2)
        rest = run_ones(folder, weight, hooks, epochs=4, resume=True)
        assert first == pytest.approx(whole[:6])
        assert rest == pytest.approx(whole[6:])
        assert len(set(whole)) > 3


def test_resumed_iteration_based_run(tmp_path):
    hooks = [CheckpointHook(interval=2, by_epoch=False)]
    weight = dict(WARMUP, by_epoch=False)
    train_cfg = dict(by_epoch=False, max_iters=2)
    first = run_ones(tmp_path, weight, hooks, train_cfg=train_cfg)
    train_cfg = dict(by_epoch=False, max_iters=5)
    rest = run_ones(tmp_path, weight, hooks, train_cfg=train_cfg, resume=True)
    assert first + rest == pytest.approx([0.5, 1, 1.5, 2, 2])


def test_epochs_in_an_iteration_based_run(tmp_path):
    with pytest.raises(
        RuntimeError, match=r'LinearWarmup goes by the epoch, .* by_epoch=F'
    ):
        run_ones(tmp_path, WARMUP, **BY_ITERATION)


def test_progress_is_over_when_the_run_is(tmp_path, nets):
    run_ones(tmp_path, WARMUP)
    made = scheduled()
    sum_of(made, nets[0])
    with pytest.raises(RuntimeError, match=r'no runner'):
        made.compute_distill_losses()


def test_runs_of_a_config_file_know_their_loop(tmp_path):
    """One epoch is as usual, and not taken for an iteration-based loop."""
    config = dict(
        default_scope='mmpretrain',
        model=dict(type='Ones', loss_weight=WARMUP),
        work_dir=str(tmp_path),
        experiment_name=f'config_{tmp_path.name}',
        train_dataloader=dict(
            dataset=dict(type='DemoDigits', size=8),
            batch_size=300,
            num_workers=0,
            collate_fn=dict(type='array_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        optim_wrapper=dict(optimizer=FROZEN),
        default_hooks=dict(checkpoint=None, logger=None),
        log_level='ERROR',
    )
    config['train_cfg'] = dict(by_epoch=True, max_epochs=1)
    runner = Runner.from_cfg(Config(copy.deepcopy(config)))
    log = Log()
    runner.register_hook(log)
    runner.train()
    assert log.losses == pytest.approx([0.5] * 3)
    config['train_cfg'] = dict(type='IterBasedTrainLoop', max_iters=5)
    config['experiment_name'] += '_iterations'
    runner = Runner.from_cfg(Config(config))
    with pytest.raises(RuntimeError, match=r'LinearWarmup goes by the epoch'):
        runner.train()


def test_distillation_with_a_schedule(images):
    config = kd_distiller()
    config['distill_losses']['loss_kl']['loss_weight'] = WARMUP
    terms = {}
    for epoch in (0, 3):
        model = algorithm(distiller=config)
        model.distiller.set_progress(epoch)
        terms[epoch] = model(images, mode='loss')['distill.loss_kl']
    plain = algorithm(distiller=kd_distiller())(images, mode='loss')
    assert_close(terms[0], plain['distill.loss_kl'] / 2)
    assert_close(terms[3], plain['distill.loss_kl'] * 2)


def test_moving_average_of_a_model_with_a_schedule(images):
    config = kd_distiller()
    config['distill_losses']['loss_kl']['loss_weight'] = WARMUP
    model = algorithm(distiller=config)
    model.distiller.set_progress(1)
    model(images, mode='loss')['distill.loss_kl'].backward()
    average = ExponentialMovingAverage(model, momentum=0.5)
    average.update_parameters(model)
    assert_close(
        average.module.student.state_dict(), model.student.state_dict()
    )
    assert average.module.distiller.loss_schedules['loss_kl'](1, 0) == 1.0


def test_compiled_distillation_with_a_schedule(images):
    config = kd_distiller()
    config['distill_losses']['loss_kl']['loss_weight'] = dict(
        WARMUP, by_epoch=False, end=40
    )
    model = algorithm(distiller=config).eval()
    plain = algorithm(distiller=kd_distiller()).eval()
    expected = plain(images, mode='loss')['distill.loss_kl']
    torch._dynamo.reset()
    frames = CompileCounter()
    run = torch.compile(model, backend=frames)
    counts = []
    for step in range(12):
        model.distiller.set_progress(iteration=step)
        found = run(images, mode='loss')['distill.loss_kl']
        assert_close(found, expected * (step + 1) / 20)
        counts.append(frames.frame_count)
    # Not compiled anew for each weight.
    assert counts[-1] == counts[2]


# ----------------------------------------------------------- log terms


def test_log_terms_are_logged_and_not_added_up(nets):
    made = scheduled(1.0, 'loss_sdd', terms=dict(near=0.25, far=0.75))
    total = sum_of(made, nets[0])
    losses = made.compute_distill_losses()
    assert list(losses) == ['loss_sdd', 'sdd_near', 'sdd_far']
    assert_close(losses['sdd_near'], 0.25 * total.detach())
    assert_close(losses['sdd_far'], 0.75 * total.detach())
    assert losses['loss_sdd'].requires_grad
    # Though the loss did not detach them.
    assert not losses['sdd_far'].requires_grad
    summed, log = Ones(1.0).parse_losses(losses)
    assert_close(summed, total)
    assert list(log) == ['loss', *losses]


def test_log_terms_have_the_schedule_of_their_loss(nets):
    made = scheduled(name='loss_sdd', terms=dict(near=0.25))
    total = sum_of(made, nets[0]).detach()
    made.set_progress(2)
    assert_close(made.compute_distill_losses()['sdd_near'], 0.375 * total)


@pytest.mark.parametrize(
    'name, entry',
    [
        ('loss_sdd', 'sdd_near'),
        ('sdd_loss', 'sdd_near'),
        ('my_loss_of_sdd', 'my_of_sdd_near'),
        ('loss', 'near'),
        ('_loss_', 'near'),
        ('klloss', 'kl_near'),
    ],
)
def test_names_of_log_terms(nets, name, entry):
    made = scheduled(1.0, name, terms=dict(near=1.0))
    sum_of(made, nets[0])
    assert list(made.compute_distill_losses()) == [name, entry]


def test_log_terms_that_are_none(nets):
    made = scheduled(1.0, terms=dict(near_loss=1.0))
    sum_of(made, nets[0])
    with pytest.raises(
        ValueError, match=r"loss_echo: the log term 'near_loss' must not have"
    ):
        made.compute_distill_losses()
    for factor in (torch.ones(1), torch.ones(2, 2)):
        made.distill_losses['loss_echo'].terms = dict(near=factor)
        with pytest.raises(
            ValueError, match=r"log term 'near' must be a tensor without dim"
        ):
            made.compute_distill_losses()


def test_log_terms_of_one_name(nets):
    made = distiller(
        student_recorders=dict(out=OUT),
        teacher_recorders=None,
        distill_losses=dict(
            loss_a=dict(type='ShapedLoss', terms=dict(b_c=1.0)),
            a_loss_b=dict(type='ShapedLoss', terms=dict(c=1.0)),
        ),
        loss_forward_mappings={
            name: dict(preds_S=dict(from_student=True, recorder='out'))
            for name in ('loss_a', 'a_loss_b')
        },
    )
    sum_of(made, nets[0])
    with pytest.raises(
        ValueError, match=r"a_loss_b: another loss has a log term 'a_b_c'"
    ):
        made.compute_distill_losses()


def test_log_terms_of_a_distillation(images):
    config = kd_distiller()
    config['distill_losses']['loss_kl'] = dict(
        type='ShapedLoss', terms=dict(part=0.5)
    )
    config['loss_forward_mappings']['loss_kl'].pop('preds_T')
    config['teacher_recorders'] = None
    model = algorithm(distiller=config)
    losses = model(images, mode='loss')
    assert list(losses) == ['distill.loss_kl', 'distill.kl_part']
    summed, _ = model.parse_losses(losses)
    assert_close(summed, losses['distill.loss_kl'])


# ---------------------------------------------------- required arguments


def test_required_arguments():
    with pytest.raises(
        ValueError,
        match=r"\['loss_echo'\]: NeedyLoss.forward needs gt_label, which the "
        r'mapping does not give',
    ):
        distiller(loss='NeedyLoss')
    labels = dict(sources('out'), gt_label=dict(from_batch='gt_label'))
    assert distiller(mapping=labels, loss='NeedyLoss').batch_sources()
    # Beside those without a default, each once.
    with pytest.raises(ValueError, match=r'needs preds_S, gt_label, which'):
        distiller(mapping={}, loss='NeedyLoss')
    needed = dict(type='NeedyLoss', needed=('preds_S', 'other'))
    with pytest.raises(ValueError, match=r'needs preds_S, other, which'):
        distiller(mapping={}, distill_losses=dict(loss_echo=needed))


def test_sdd_without_labels():
    sdd = dict(type='SDDLoss', weight_rule='label')
    with pytest.raises(ValueError, match=r'SDDLoss.forward needs gt_labels,'):
        distiller(distill_losses=dict(loss_echo=sdd))
    sdd['weight_rule'] = 'teacher_global'
    distiller(distill_losses=dict(loss_echo=sdd))


def test_loss_looks_at_its_recorders():
    """SDD without nested pooling would get maps that are pooled already."""
    config = dict(
        student_recorders=dict(maps=dict(type='LogitMapOutputs')),
        teacher_recorders=dict(maps=dict(type='LogitMapOutputs', grid_size=4)),
        distill_losses=dict(
            loss_sdd=dict(type='SDDLoss', weight_rule='teacher_global')
        ),
        loss_forward_mappings=dict(
            loss_sdd=dict(
                preds_S=dict(from_student=True, recorder='maps'),
                preds_T=dict(from_student=False, recorder='maps'),
            )
        ),
    )
    ConfigurableDistiller(**config)
    config['distill_losses']['loss_sdd']['nested_pool'] = False
    with pytest.raises(
        ValueError, match='loss_sdd: preds_T is recorded with grid_size=4'
    ):
        ConfigurableDistiller(**config)


def test_parts_are_named_in_errors():
    config = dict(
        student_recorders=dict(fc=dict(type='ModuleOutputs', source='fc')),
        distill_losses=dict(loss_kl=dict(type='KLDivergence', tua=4.0)),
    )
    with pytest.raises(
        ValueError, match=r"distill_losses\['loss_kl'\]: KLDivergence has no"
    ):
        ConfigurableDistiller(**config)
    config['connectors'] = dict(c=[dict(type='ConvConector')])
    with pytest.raises(
        ValueError, match=r"connectors\['c'\]\[0\]: there is no 'ConvConector'"
    ):
        ConfigurableDistiller(**config)
    config['teacher_recorders'] = dict(fc=dict(type='ModuleOutput'))
    with pytest.raises(
        ValueError, match=r"teacher_recorders\['fc'\]: there is no 'ModuleOut"
    ):
        ConfigurableDistiller(**config)
