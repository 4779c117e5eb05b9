"""A resumed run of PS-KD and DLB is the uninterrupted one, bit for bit."""

import pytest
import torch
from toy_runs import (
    PREPROCESSOR,
    Watcher,
    build_runner,
    classifier,
    leaves,
    loader,
    make_dataset,
)
from toy_self import config

AUGMENTED = dict(
    PREPROCESSOR,
    augments=[dict(type='BatchRandomCrop', crop_size=8, padding=1)],
)
EPOCHS = dict(
    train_cfg=dict(by_epoch=True, max_epochs=3),
    sampler=dict(type='DefaultSampler', shuffle=True),
    ramp=dict(end=3),
    checkpoint=dict(interval=1),
    name='epoch_2.pth',
    last='epoch_3.pth',
)
# An epoch has three batches: this ends in the middle of the second.
ITERATIONS = dict(
    train_cfg=dict(by_epoch=False, max_iters=8),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    ramp=dict(end=8, by_epoch=False),
    checkpoint=dict(interval=4, by_epoch=False),
    name='iter_4.pth',
    last='iter_8.pth',
)


def run(folder, method, loop, load_from=None):
    if method == 'PSKD':
        loss = dict(alpha=dict(type='LinearRamp', stop=0.8, **loop['ramp']))
        batches = {}
    else:
        loss = {}
        batches = dict(batch_sampler=dict(type='LastBatchSampler'))
    watcher = Watcher()
    runner = build_runner(
        folder,
        config(method, classifier(), data_preprocessor=AUGMENTED, loss=loss),
        loader(make_dataset(12), sampler=loop['sampler'], **batches),
        [watcher],
        train_cfg=loop['train_cfg'],
        load_from=load_from and str(load_from),
        resume=load_from is not None,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        ),
        default_hooks=dict(
            logger=None,
            checkpoint=dict(type='SafeCheckpointHook', **loop['checkpoint']),
        ),
    )
    runner.train()
    return watcher


def state(path):
    checkpoint = torch.load(path, weights_only=False)
    return {key: checkpoint[key] for key in ('state_dict', 'optimizer')}


@pytest.mark.parametrize('loop', [EPOCHS, ITERATIONS], ids=['epoch', 'iter'])
@pytest.mark.parametrize('method', ['PSKD', 'DLB'])
def test_resumed_run_is_the_same(method, loop, tmp_path):
    one, two = tmp_path / 'straight', tmp_path / 'resumed'
    straight = run(one, method, loop)
    resumed = run(two, method, loop, load_from=one / loop['name'])
    left = len(resumed.losses)
    assert 0 < left < len(straight.losses)
    assert resumed.images == straight.images[-left:]
    assert resumed.losses == straight.losses[-left:]
    expected, found = state(one / loop['last']), state(two / loop['last'])
    assert leaves(found) == leaves(expected)

    # Equal, because the past is in the checkpoint; not because nothing
    # depends on it. Only an epoch of DLB begins without one.
    checkpoint = torch.load(one / loop['name'], weights_only=False)
    weights = checkpoint['state_dict']
    kept = {k: v for k, v in weights.items() if k.startswith('store.')}
    assert len(kept) == 2
    for name, value in kept.items():
        weights[name] = torch.zeros_like(value)
    torch.save(checkpoint, tmp_path / 'forgetful.pth')
    forgetful = run(
        tmp_path / 'other', method, loop, tmp_path / 'forgetful.pth'
    )
    is_needed = (method, loop) != ('DLB', EPOCHS)
    assert (forgetful.losses != resumed.losses) == is_needed
