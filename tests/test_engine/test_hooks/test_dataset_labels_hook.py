"""Labels for the losses of a run, and CRD through the real engine."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmpretrain.structures import DataSample
from torch import nn
from toy_runs import (
    build_runner,
    distillation,
    leaves,
    loader,
    make_dataset,
    save_teacher,
)
from toys import sources

from mmkd_plugin.datasets import ArrayImages
from mmkd_plugin.engine.hooks import DatasetLabelsHook
from mmkd_plugin.engine.preflight import preflight

NUM = 10
HOOK = dict(type='DatasetLabelsHook')
EPOCHS = 3


def crd_distiller(**options):
    """Config of CRD on the pooled features."""
    recorders = dict(pooled=dict(type='ModuleInputs', source='head.fc'))
    return dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(
            loss_crd=dict(
                type='CRDLoss',
                student_channels=2,
                teacher_channels=4,
                num_samples=NUM,
                feat_dim=3,
                num_negatives=5,
                **options,
            )
        ),
        loss_forward_mappings=dict(
            loss_crd=dict(
                **sources('pooled', data_idx=0),
                sample_idx=dict(from_batch='sample_idx'),
                gt_labels=dict(from_batch='gt_label'),
            )
        ),
    )


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp('teacher') / 'teacher.pth')


class Taker(nn.Module):
    """Keeps what it is given."""

    def set_dataset_labels(self, labels):
        self.labels = labels


def runner_of(model, dataset):
    return SimpleNamespace(
        model=model, train_dataloader=SimpleNamespace(dataset=dataset)
    )


class Unread(ArrayImages):
    """Images that must not be looked at."""

    def __getitem__(self, index):
        raise AssertionError('an image was read')

    __getitems__ = __getitem__


def test_all_takers_get_the_labels():
    assert HOOKS.get('DatasetLabelsHook') is DatasetLabelsHook
    model = nn.ModuleDict(
        dict(a=Taker(), b=nn.ModuleList([nn.ReLU(), Taker()]))
    )
    data = make_dataset(7)
    data = Unread(data.images, data.labels)
    DatasetLabelsHook().before_train(runner_of(model, data))
    for taker in (model['a'], model['b'][1]):
        assert taker.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_labels_of_mmpretrain_and_a_wrapped_model():
    class Wrapped(list):
        def get_gt_labels(self):
            return np.array([4, 2])

    taker = Taker()
    # Without a group of processes it cannot be built.
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = nn.Sequential(taker)
    DatasetLabelsHook().before_train(runner_of(wrapper, Wrapped('ab')))
    assert taker.labels.tolist() == [4, 2]


def test_what_is_no_use():
    hook = DatasetLabelsHook()
    with pytest.raises(ValueError, match='got a Linear in which no module'):
        hook.before_train(runner_of(nn.Linear(2, 2), make_dataset(4)))
    match = r'DatasetLabelsHook needs .* got ArrayImages, which gives none'
    with pytest.raises(ValueError, match=match):
        hook.before_train(runner_of(Taker(), make_dataset(4, labels=False)))

    class Odd(list):
        labels = np.zeros((2, 3))

    with pytest.raises(ValueError, match=r'shape \(2, 3\) for 2 images'):
        hook.before_train(runner_of(Taker(), Odd('ab')))


def test_indices_of_a_wrapped_data_set():
    """Its images have the indices of the data set inside."""

    class Half(list):
        labels = np.arange(3)

        def __init__(self, last):
            sample = DataSample(metainfo=dict(sample_idx=last))
            super().__init__([None, None, dict(data_samples=sample)])

    hook = DatasetLabelsHook()
    hook.check_inputs(nn.Sequential(Taker()), Half(2), {})
    with pytest.raises(ValueError, match='image 2 of Half has 7: use'):
        hook.check_inputs(nn.Sequential(Taker()), Half(7), {})


@DATASETS.register_module()
class ToyNoise(ArrayImages):
    """The images of ``make_dataset``, built from a config."""

    def __init__(self, num=NUM, labels=True):
        made = make_dataset(num, labels=labels)
        super().__init__(made.images, made.labels, ['a', 'b', 'c'])


def config(teacher, hooks=(HOOK,), data=None, **options):
    return Config(
        dict(
            default_scope='mmpretrain',
            model=distillation(teacher, distiller=crd_distiller(**options)),
            train_dataloader=loader(dict(type='ToyNoise', **(data or {}))),
            custom_hooks=[dict(hook) for hook in hooks],
        )
    )


def test_preflight(teacher):
    # It returns nothing, and finds nothing wrong.
    assert preflight(config(teacher)) is None
    without = config(teacher, hooks=(), negatives='all_samples')
    assert preflight(without) is None


def test_preflight_tells_what_is_wrong(teacher):
    place = r'distiller\.distill_losses\.loss_crd: '
    with pytest.raises(
        ValueError, match=place + 'num_samples must be 12, .* got 10'
    ):
        preflight(config(teacher, data=dict(num=12)))
    with pytest.raises(ValueError, match=place + '.*got none: add dict'):
        preflight(config(teacher, hooks=()))
    # Here the mapping reads them as well, and says so first.
    with pytest.raises(ValueError, match=r'\(ToyNoise\) has no labels'):
        preflight(config(teacher, data=dict(labels=False)))
    model = MODELS.build(config(teacher).model)
    with pytest.raises(ValueError, match='DatasetLabelsHook needs the labels'):
        DatasetLabelsHook().check_inputs(model, make_dataset(labels=False), {})


def run(folder, teacher, load_from=None, hooks=(HOOK,), **options):
    runner = build_runner(
        folder,
        distillation(
            teacher,
            distiller=crd_distiller(**options),
            calculate_student_loss=True,
        ),
        loader(make_dataset(NUM), shuffle=True),
        hooks,
        epochs=EPOCHS,
        load_from=load_from and str(load_from),
        resume=load_from is not None,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        ),
        default_hooks=dict(
            logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
        ),
    )
    runner.train()
    return runner


def state(folder, epoch):
    """Read all that a run goes on with."""
    checkpoint = torch.load(folder / f'epoch_{epoch}.pth', weights_only=False)
    return {key: checkpoint[key] for key in ('state_dict', 'optimizer')}


def test_resumed_run_is_the_same(teacher, tmp_path):
    one, two = tmp_path / 'straight', tmp_path / 'resumed'
    runner = run(one, teacher)
    run(two, teacher, load_from=one / 'epoch_1.pth')
    expected, found = state(one, EPOCHS), state(two, EPOCHS)
    assert leaves(found) == leaves(expected)

    # Equal, because it went on; not because nothing moves.
    first = state(one, 1)['state_dict']
    prefix = 'distiller.distill_losses.loss_crd.'
    crd = {
        name.removeprefix(prefix): (first[name], value)
        for name, value in expected['state_dict'].items()
        if name.startswith(prefix)
    }
    # All that is learned or remembered, and nothing else.
    assert set(crd) == {
        'embed_S.weight',
        'embed_S.bias',
        'embed_T.weight',
        'embed_T.bias',
        'memory_S.rows',
        'memory_T.rows',
        'log_z',
    }
    for name, (before, after) in crd.items():
        assert after.isfinite().all()
        assert torch.equal(before, after) is (name == 'log_z'), name
    # The optimizer has a momentum for each parameter of loss and student.
    model = runner.model
    parameters = list(model.parameters())
    assert len(expected['optimizer']['state']) == len(parameters)
    loss = model.distiller.distill_losses['loss_crd']
    assert any(p is loss.embed_T.weight for p in parameters)
    assert loss.labels.tolist() == [i % 3 for i in range(NUM)]
    copied = copy.deepcopy(model)
    assert leaves(copied.state_dict()) == leaves(model.state_dict())


def test_a_run_without_the_hook(teacher, tmp_path):
    with pytest.raises(ValueError, match=r'loss_crd: .*DatasetLabelsHook'):
        run(tmp_path, teacher, hooks=())
