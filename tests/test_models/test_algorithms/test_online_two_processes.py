"""Students that are trained together in two processes and in one, float64."""

import pytest
import torch
from ddp import run_processes
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from torch.nn.functional import one_hot
from torch.testing import assert_close
from toy_runs import loader, make_dataset
from toy_students import batch, online

from mmkd_plugin.engine.hooks import ErrorCovarianceHook
from mmkd_plugin.engine.optimizers import PerStudentOptimWrapperConstructor
from mmkd_plugin.models.algorithms.best_mixture import best_mixture
from mmkd_plugin.models.algorithms.kdcl import best_student, joint_mixture

EXACT = dict(rtol=1e-10, atol=1e-12)
SCHEMES = {
    'dml': dict(kind='DML', widths=(2, 3, 2)),
    'naive': dict(kind='KDCL', target='naive'),
    'linear': dict(kind='KDCL', target='linear', widths=(2, 3, 2)),
    'min_logit': dict(kind='KDCL', target='min_logit'),
    'general': dict(kind='KDCL', target='general'),
}


def images(rank):
    """Two views, those of the joint batch where ``rank`` is None."""
    data = batch(num=8, views=3, seed=4)
    if rank is not None:
        data = dict(
            inputs=[view[rank::2] for view in data['inputs']],
            data_samples=data['data_samples'][rank::2],
        )
    data['inputs'] = [view.double() for view in data['inputs']]
    return data


def step(rank, name):
    """One step of all optimizers."""
    model = online(
        seed=2,
        data_preprocessor=dict(type='BaseDataPreprocessor'),
        **SCHEMES[name],
    ).double()
    data = images(rank)
    data['inputs'] = data['inputs'][: len(model.students)]
    wrapped = model
    if rank is not None:
        wrapped = MMDistributedDataParallel(
            model, find_unused_parameters=False
        )
    # Batch statistics are those of a process.
    model.eval()
    losses = wrapped(**data, mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    gradients = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    optimizers = PerStudentOptimWrapperConstructor(
        dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            clip_grad=dict(max_norm=0.5),
        )
    )(model)
    for _ in range(2):
        wrapped.train_step(data, optimizers)
    return dict(
        log={key: value.item() for key, value in log.items()},
        gradients=gradients,
        weights=model.state_dict(),
    )


def disagreement(rank):
    """Logits for which each process alone would choose another student."""
    labels = torch.arange(4)
    right = one_hot(labels, 4).double()
    logits = torch.stack([3 * right, 2 * (1 - right)])
    if rank == 1:
        logits = torch.stack([2 * (1 - right), 2.5 * right])
    return dict(
        alone=best_mixture(logits, labels),
        naive=best_student(logits, labels),
        linear=joint_mixture(logits, labels),
        logits=logits,
    )


class Runner:
    """As much of a runner as the hook asks for."""

    def __init__(self, model):
        self.model = model
        self.logger = self
        self.info = lambda text: None


def measured(rank):
    """The weights that are measured on 7 images.

    So that one of them is dealt out twice.
    """
    init_default_scope('mmpretrain')
    model = online('KDCL', target='general')
    hook = ErrorCovarianceHook(dataloader=loader(make_dataset(7)))
    hook._loader = hook._build(0)
    hook.after_train_epoch(Runner(model))
    return model.general_weights


def everything(rank):
    return dict(
        measured=measured(rank),
        steps={name: step(rank, name) for name in SCHEMES},
        disagreement=disagreement(rank),
    )


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found; they are started once for all tests."""
    return run_processes(everything, tmp_path_factory.mktemp('ranks'))


@pytest.mark.parametrize('name', SCHEMES)
def test_step_is_that_of_the_joint_batch(ranks, name):
    expected = step(None, name)
    assert len(expected['gradients']) > 20
    found = [rank['steps'][name] for rank in ranks]
    for rank in found:
        assert_close(rank['gradients'], expected['gradients'], **EXACT)
        assert_close(rank['weights'], expected['weights'], **EXACT)
    for key, value in expected['log'].items():
        mean = sum(rank['log'][key] for rank in found) / 2
        assert mean == pytest.approx(value, rel=1e-10), key
        if key.startswith('distill.weight'):
            assert found[0]['log'][key] == found[1]['log'][key]


def test_all_processes_choose_the_same(ranks):
    one, two = (rank['disagreement'] for rank in ranks)
    assert one['alone'].tolist() == [1.0, 0.0]
    assert two['alone'].tolist() == [0.0, 1.0]
    labels = torch.arange(4).repeat(2)
    joint = torch.cat([one['logits'], two['logits']], dim=1)
    for name, expected in (
        ('naive', best_student(joint, labels)),
        ('linear', best_mixture(joint, labels)),
    ):
        assert_close(one[name], expected, **EXACT)
        assert torch.equal(one[name], two[name])
    assert one['linear'].min() > 0


def test_every_held_out_image_counts_once(ranks):
    one, two = (rank['measured'] for rank in ranks)
    assert torch.equal(one, two)
    assert_close(one, measured(None), rtol=0, atol=1e-6)
    assert one[0] != one[1]
