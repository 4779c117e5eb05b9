r"""The losses and connectors run unchanged inside the real MMRazor.

The host is MMRazor's own ``SingleTeacherDistill`` with its own
``ConfigurableDistiller``, on mmpretrain classifiers. Nothing of MMRazor is
patched by this file.

It needs an environment of its own, since MMRazor wants mmcv <= 2.1.0, and is
skipped where mmrazor is not installed. The wheel of mmrazor 1.0.0 cannot be
imported on torch 2, its repository can: there, two files have an upper bound
on the version of torch, which the last but one line gives to the wheel
(docs/mmrazor.md says more)::

    python3.11 -m venv razor
    razor/bin/pip install torch torchvision onedl-mmengine==0.10.12
    razor/bin/pip install --no-deps mmcv-lite==2.1.0
    razor/bin/pip install --no-deps onedl-mmpretrain==1.3.6 mmrazor==1.0.0
    razor/bin/pip install opencv-python-headless einops importlib-metadata
    razor/bin/pip install mat4py modelindex ordered-set joblib scipy
    razor/bin/pip install cloudpickle pytest
    razor=razor/lib/python3.11/site-packages/mmrazor
    sed -i "s/^if /if digit_version('1.13.1') >= /" \
        $razor/structures/quantization/backend_config/{mapping,common*}.py
    OMP_NUM_THREADS=1 PYTHONPATH=. razor/bin/python -m pytest tests/compat

What is recorded here is what MMRazor's records get right on a current torch:
outputs of the classifier and inputs of the head's loss. Nothing writes into
these in place. Outputs of a batch norm are another matter: MMRazor means to
switch off the in-place ReLU behind it, but on this torch does not, so its
record changes after it was taken. That is MMRazor's, for any loss.
"""

import importlib.util
import inspect
import itertools
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss

if importlib.util.find_spec('mmrazor') is None:
    pytest.skip(
        'mmrazor is not installed; docs/mmrazor.md has an environment for '
        'this check',
        allow_module_level=True,
    )

from mmpretrain.models import LinearClsHead
from mmpretrain.structures import DataSample
from torch.testing import assert_close
from toys import CLASSES, architecture, teacher

from mmkd_plugin.models import losses
from mmkd_plugin.models.connectors import class_drop_mask

pytestmark = pytest.mark.usefixtures('seed', 'own_scope')

DOCS = Path(__file__).parents[2] / 'docs' / 'mmrazor.md'
_NUMBERS = itertools.count()


@MODELS.register_module()
class LogitMapHead(LinearClsHead):
    """A linear head that classifies every position, then pools.

    It goes without a neck. Parameters, their names and the logits are those
    of a LinearClsHead behind a GlobalAveragePooling, so checkpoints fit.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.logit_map = nn.Identity()  # for the recorder

    def forward(self, feats):
        logits = self.fc(feats[-1].permute(0, 2, 3, 1))
        return self.logit_map(logits.permute(0, 3, 1, 2)).mean(dim=(2, 3))


def network(width, mapped=False):
    """Config of a classifier, on 8x8 images its last map is 4x4."""
    config = architecture(width, stages=2)
    if mapped:
        del config['neck']
        config['head']['type'] = 'LogitMapHead'
    return config


def source(recorder, student, **more):
    return dict(recorder=recorder, from_student=student, **more)


def both(recorder, **more):
    """Sources of student and teacher, ``more`` for the teacher alone."""
    return dict(
        preds_S=source(recorder, True), preds_T=source(recorder, False, **more)
    )


LABELS = dict(gt_labels=source('criterion', True, data_idx=1))
MASK = dict(type='mmengine.ClassDropMask', drop_ratio=0.4)
WIDTH = dict(
    type='mmengine.ConvConnector',
    in_channels=8,
    out_channels=16,
    norm_cfg=dict(type='BN'),
)


def masked(logits):
    return logits.masked_fill(
        class_drop_mask(logits, drop_ratio=0.4), -torch.inf
    )


# For each: the loss in the config, its mapping, and the same by hand from
# what the hooks of `watch` saw.
CASES = {
    'dkd': (
        dict(type='mmengine.DKDLoss', alpha=0.5, beta=2.0, tau=3.0),
        dict(**both('logits'), **LABELS),
        lambda seen: losses.dkd_loss(
            seen['logits_S'],
            seen['logits_T'],
            seen['labels'],
            alpha=0.5,
            beta=2.0,
            tau=3.0,
        ),
    ),
    'nkd': (
        dict(type='mmengine.NKDLoss', gamma=2.0, tau=3.0, loss_weight=0.5),
        dict(**both('logits'), **LABELS),
        lambda seen: (
            0.5
            * losses.nkd_loss(
                seen['logits_S'],
                seen['logits_T'],
                seen['labels'],
                gamma=2.0,
                tau=3.0,
            )
        ),
    ),
    'kl_masked': (
        dict(type='mmengine.KLDivergence', tau=4.0),
        both('logits', connector='mask'),
        lambda seen: losses.kl_divergence(
            seen['logits_S'], masked(seen['logits_T']), tau=4.0
        ),
    ),
    'relation': (
        dict(type='mmengine.StructuredRelationLoss', tau=2.0),
        both('logits'),
        lambda seen: losses.structured_relation_loss(
            seen['logits_S'], seen['logits_T'], tau=2.0
        ),
    ),
    'relation_masked': (
        dict(type='mmengine.StructuredRelationLoss', loss_weight=3.0),
        both('logits', connector='mask'),
        lambda seen: (
            3
            * losses.structured_relation_loss(
                seen['logits_S'], masked(seen['logits_T']), tau=4.0
            )
        ),
    ),
}


def features_case(
    kind, function, of='embedding', resized=False, weight=1.0, **options
):
    """A loss of two features; widths are made equal where that is needed."""
    # The classifier's first argument, or the second call of the ReLU.
    which = dict(embedding=dict(data_idx=0), features=dict(record_idx=1))[of]
    more = dict(connector='width') if resized else {}

    def by_hand(seen):
        feature_S = seen[f'{of}_S']
        if resized:
            feature_S = seen['connectors']['width'](feature_S)
        return weight * function(feature_S, seen[f'{of}_T'], **options)

    loss = dict(type=f'mmengine.{kind}', loss_weight=weight, **options)
    mapping = dict(
        preds_S=source(of, True, **which, **more),
        preds_T=source(of, False, **which),
    )
    return loss, mapping, by_hand


CASES.update(
    dist=(
        dict(type='mmengine.DISTLoss', beta=2.0, tau=4.0),
        both('logits'),
        lambda seen: losses.dist_loss(
            seen['logits_S'], seen['logits_T'], beta=2.0, tau=4.0
        ),
    ),
    wsld=(
        dict(type='mmengine.WSLDLoss', tau=3.0),
        dict(**both('logits'), **LABELS),
        lambda seen: losses.wsld_loss(
            seen['logits_S'], seen['logits_T'], seen['labels'], tau=3.0
        ),
    ),
    rkd=features_case('RKDLoss', losses.rkd_loss, angle_weight=10.0),
    sp=features_case('SPLoss', losses.sp_loss, 'features'),
    cc=features_case('CCLoss', losses.cc_loss, weight=1e3, gamma=0.3),
    pkt=features_case('PKTLoss', losses.pkt_loss, weight=3e4),
    at=features_case('ATLoss', losses.at_loss, 'features'),
    nst=features_case('NSTLoss', losses.nst_loss, 'features'),
    hint=features_case('MSELoss', mse_loss, 'features', resized=True),
    hcl=features_case(
        'HCLLoss', losses.hcl_loss, 'features', resized=True, levels=(2, 1)
    ),
    ft=features_case('FTLoss', losses.ft_loss, 'features', resized=True),
)


def sdd_by_hand(seen, base, scales=(1, 2, 4), by_label=True):
    """Region by region, a complementary one counts twice."""
    whole = seen['map_T'].mean(dim=(2, 3)).argmax(dim=1)
    reference = seen['labels'] if by_label else whole
    total = []
    for scale in scales:
        # A 4x4 map, which every scale divides.
        regions_S, regions_T = (
            adaptive_avg_pool2d(seen[name], scale).flatten(2).unbind(dim=2)
            for name in ('map_S', 'map_T')
        )
        for logits_S, logits_T in zip(regions_S, regions_T, strict=True):
            answer = logits_T.argmax(dim=1)
            differs = (answer == reference) != (whole == reference)
            total.append((1 + differs.long()) * base(logits_S, logits_T))
    return torch.stack(total).mean()


def sdd_case(expected, labels=True, **options):
    mapping = dict(both('logit_map'), **(LABELS if labels else {}))
    return dict(type='mmengine.SDDLoss', **options), mapping, expected


CASES.update(
    # All of its defaults; its base loss has a namesake in MMRazor.
    sdd=sdd_case(
        lambda seen: sdd_by_hand(
            seen, partial(losses.kl_divergence, tau=4.0, reduction='none')
        )
    ),
    sdd_unlabeled=sdd_case(
        lambda seen: sdd_by_hand(
            seen,
            partial(losses.kl_divergence, tau=4.0, reduction='none'),
            by_label=False,
        ),
        labels=False,
        weight_rule='teacher_global',
    ),
    sdd_dkd=sdd_case(
        lambda seen: sdd_by_hand(
            seen,
            partial(
                losses.dkd_loss,
                gt_labels=seen['labels'],
                beta=2.0,
                reduction='none',
            ),
            scales=(1, 4),
        ),
        base_loss=dict(type='mmengine.DKDLoss', beta=2.0),
        scales=(1, 4),
    ),
    sdd_nkd=sdd_case(
        lambda seen: sdd_by_hand(
            seen,
            partial(
                losses.nkd_loss,
                gt_labels=seen['labels'],
                tau=2.0,
                reduction='none',
            ),
        ),
        base_loss=dict(type='mmengine.NKDLoss', tau=2.0),
    ),
)


MAPPED = [name for name in CASES if name.startswith('sdd')]
PLAIN = [name for name in CASES if name not in MAPPED]
ALL = pytest.mark.parametrize(
    'names', [PLAIN, MAPPED], ids=['plain', 'mapped']
)


def algorithm(names, **more):
    """Config of MMRazor's algorithm with these losses of ours."""
    mapped = set(names) <= set(MAPPED)
    recorders = dict(
        logits=dict(type='ModuleOutputs', source='head'),
        criterion=dict(type='ModuleInputs', source='head.loss_module'),
        logit_map=dict(type='ModuleOutputs', source='head.logit_map'),
        embedding=dict(type='ModuleInputs', source='head.fc'),
        # The last activation: nothing in place comes behind it.
        features=dict(type='ModuleOutputs', source='backbone.layer2.1.relu'),
    )
    read = [item for name in names for item in CASES[name][1].values()]
    connectors = dict(mask=MASK, width=WIDTH)
    student_recorders, teacher_recorders = (
        {
            item['recorder']: recorders[item['recorder']]
            for item in read
            if item['from_student'] is of_student
        }
        for of_student in (True, False)
    )
    return dict(
        type='SingleTeacherDistill',
        _scope_='mmrazor',  # as in the configs that MMRazor ships
        architecture=network(4, mapped),
        teacher=network(8, mapped),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=student_recorders,
            teacher_recorders=teacher_recorders,
            connectors={
                item['connector']: connectors[item['connector']]
                for item in read
                if 'connector' in item
            },
            distill_losses={f'loss_{n}': CASES[n][0] for n in names},
            loss_forward_mappings={f'loss_{n}': CASES[n][1] for n in names},
        ),
        **more,
    )


def watch(model):
    """See what the networks compute, in copies that MMRazor cannot touch."""
    seen = {}

    def save(name):
        def hook(module, args, output):
            # Backbone and neck return a tuple of one.
            (value,) = output if isinstance(output, tuple) else (output,)
            seen[name] = value.clone()

        return hook

    for side, net in dict(S=model.student, T=model.teacher).items():
        net.head.register_forward_hook(save(f'logits_{side}'))
        net.backbone.register_forward_hook(save(f'features_{side}'))
        if hasattr(net.head, 'logit_map'):
            net.head.logit_map.register_forward_hook(save(f'map_{side}'))
        else:
            net.neck.register_forward_hook(save(f'embedding_{side}'))
    seen['connectors'] = model.distiller.connectors
    return seen


def batch(num=6):
    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(num)]
    return torch.randn(num, 3, 8, 8), samples


def from_mmrazor(*modules):
    return all(type(m).__module__.startswith('mmrazor.') for m in modules)


@pytest.fixture
def own_scope():
    """The runner here makes mmrazor the default scope, for good."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture
def teacher_ckpt(tmp_path):
    """Checkpoint of a classifier with pooling and a linear head."""
    path = tmp_path / 'teacher.pth'
    torch.save(teacher(width=8, stages=2).state_dict(), path)
    return str(path)


@pytest.mark.parametrize('scope', ['mmrazor', 'mmpretrain'])
@pytest.mark.parametrize('name', CASES)
def test_value_and_gradient(name, scope, teacher_ckpt):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(algorithm([name], teacher_ckpt=teacher_ckpt))
    assert from_mmrazor(model, model.distiller)
    loss = model.distiller.distill_losses[f'loss_{name}']
    for module in loss.modules():
        assert type(module).__module__.startswith('mmkd_plugin.')
    model.train()
    seen = watch(model)
    inputs, samples = batch()
    results = model(inputs, samples, mode='loss')
    assert set(results) == {'student.loss', f'distill.loss_{name}'}

    seen['labels'] = torch.cat([s.gt_label for s in samples])
    expected = CASES[name][2](seen)
    value = results[f'distill.loss_{name}']
    print(f'{name}: {value.item():.6f}, by hand {expected.item():.6f}')
    assert value.item() > 1e-4
    assert_close(value, expected)
    total, log = model.parse_losses(results)
    assert_close(total, results['student.loss'] + expected)
    assert_close(log['loss'], total)

    parameters = list(model.student.parameters())
    by_hand = torch.autograd.grad(
        results['student.loss'] + expected, parameters, retain_graph=True
    )
    total.backward()
    for parameter, gradient in zip(parameters, by_hand, strict=True):
        assert parameter.grad.isfinite().all()
        assert_close(parameter.grad, gradient)
    assert all(p.grad is None for p in model.teacher.parameters())


class Witness(Hook):
    """Keeps the weights before training and the log of every iteration."""

    def before_train(self, runner):
        self.before = weights(runner.model)
        self.gradients = []
        for parameter in runner.model.student.parameters():
            parameter.register_hook(
                lambda g: self.gradients.append(g.isfinite().all().item())
            )
        self.logs = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.logs.append({k: v.item() for k, v in outputs.items()})


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


@ALL
def test_train_and_validate(names, tmp_path, teacher_ckpt):
    images, samples = batch(12)
    data = dict(
        dataset=[
            dict(inputs=i, data_samples=s)
            for i, s in zip(images, samples, strict=True)
        ],
        batch_size=6,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    witness = Witness()
    runner = Runner(
        model=algorithm(names, teacher_ckpt=teacher_ckpt),
        work_dir=str(tmp_path / 'run'),
        experiment_name=f'compat_{next(_NUMBERS)}',
        default_scope='mmrazor',
        train_dataloader=data,
        train_cfg=dict(by_epoch=False, max_iters=2, val_interval=2),
        # The last batch norm of a block starts at zero: in the first step
        # nothing in front of it moves.
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        val_dataloader=data,
        val_cfg=dict(),
        val_evaluator=dict(type='mmpretrain.Accuracy'),
        default_hooks=dict(logger=None),
        custom_hooks=[witness],
        log_level='ERROR',
        randomness=dict(seed=5),
    )
    model = runner.train()
    assert from_mmrazor(model, model.distiller)
    assert len(witness.logs) == 2
    for log in witness.logs:
        terms = {f'distill.loss_{name}' for name in names}
        assert set(log) == {'loss', 'student.loss', *terms}
        print({k: round(v, 4) for k, v in log.items()})
        total = log.pop('loss')
        assert total == pytest.approx(sum(log.values()), rel=1e-5)
    assert len(witness.gradients) == 2 * len(list(model.student.parameters()))
    assert all(witness.gradients)

    after = weights(model)
    for name, _ in model.student.named_parameters():
        key = f'architecture.{name}'
        assert not after[key].equal(witness.before[key]), key
    saved = torch.load(teacher_ckpt, weights_only=True)
    for name, value in model.teacher.state_dict().items():
        assert value.equal(saved.pop(name)), name
    assert not saved
    accuracy = runner.message_hub.get_scalar('val/accuracy/top1').current()
    print(f'accuracy {accuracy:.1f}')
    assert 0 <= accuracy <= 100


@ALL
def test_the_same_distiller_in_this_package(names, teacher_ckpt):
    config = algorithm(names, teacher_ckpt=teacher_ckpt)
    host = MODELS.build(config)
    assert from_mmrazor(host, host.distiller)
    ours = MODELS.build(
        dict(
            type='SingleTeacherDistill',
            student=config['architecture'],
            teacher=config['teacher'],
            teacher_ckpt=teacher_ckpt,
            distiller=config['distiller'],
        )
    )
    ours.student.load_state_dict(host.student.state_dict())
    ours.distiller.load_state_dict(host.distiller.state_dict())
    host.train()
    ours.train()
    inputs, samples = batch()
    expected = host(inputs, samples, mode='loss')
    results = ours(inputs, samples, mode='loss')
    for name, value in expected.items():
        assert_close(results[name], value)


def test_whose_class_a_name_gets():
    clashing = {
        *('ConfigurableDistiller', 'SelfDistill', 'SingleTeacherDistill'),
        *('BYOTConnector', 'MGDConnector'),
        *('ABLoss', 'ATLoss', 'CRDLoss', 'DISTLoss', 'DKDLoss', 'FTLoss'),
        *('KLDivergence', 'L1Loss', 'MGDLoss', 'OFDLoss'),
    }
    ours = {
        name
        for name, cls in MODELS.module_dict.items()
        if cls.__module__.startswith('mmkd_plugin.')
    }
    with DefaultScope.overwrite_default_scope('mmrazor'):
        MODELS.get('mmrazor.SingleTeacherDistill')  # registers MMRazor's
        host = MODELS.children['mmrazor']
        assert ours & set(host.module_dict) == clashing
        for name in ours:
            # As MMRazor's distiller looks it up.
            owner = host.get(name).__module__.partition('.')[0]
            assert owner == ('mmrazor' if name in clashing else 'mmkd_plugin')
            assert host.get(f'mmengine.{name}') is MODELS.get(name)
    # The other way round where mmpretrain is the default scope.
    with (
        DefaultScope.overwrite_default_scope('mmpretrain'),
        host.switch_scope_and_registry(None) as registry,
    ):
        for name in ours:
            assert registry.get(name) is MODELS.get(name)
            if name in clashing:
                theirs = registry.get(f'mmrazor.{name}')
                assert theirs is host.module_dict[name]


def test_logit_map_head_is_a_linear_head():
    plain, mapped = MODELS.build(network(4)), MODELS.build(network(4, True))
    mapped.load_state_dict(plain.state_dict())
    plain.eval()
    mapped.eval()
    images, _ = batch()
    assert_close(mapped(images, mode='tensor'), plain(images, mode='tensor'))


def test_examples_of_the_docs(teacher_ckpt):
    page = DOCS.read_text()
    assert inspect.getsource(LogitMapHead) in page
    blocks = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    plain, sdd = ({} for _ in range(2))
    exec(blocks[0], plain)
    exec(blocks[2], sdd)
    inputs, samples = batch()
    del sdd['__builtins__']
    for mapped, distiller in (
        (False, plain['model']['distiller']),
        (True, sdd),
    ):
        config = dict(
            plain['model'],
            architecture=network(4, mapped),
            teacher=network(8, mapped),
            teacher_ckpt=teacher_ckpt,
            distiller=dict(distiller, type='ConfigurableDistiller'),
        )
        model = MODELS.build(config)
        assert from_mmrazor(model, model.distiller)
        terms = model(inputs, samples, mode='loss')
        names = {f'distill.{name}' for name in distiller['distill_losses']}
        assert set(terms) == {'student.loss', *names}
        assert all(value.isfinite() for value in terms.values())
