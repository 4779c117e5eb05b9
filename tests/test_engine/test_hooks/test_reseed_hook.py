"""Random numbers of a resumed run."""

import random

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS
from toy_runs import Watcher, build_runner, loader, make_dataset

import mmkd_plugin.engine.hooks.reseed_hook as module
from mmkd_plugin.engine.hooks import ReseedHook


class Random(torch.nn.Module):
    """Dropout, and a draw from every generator there is."""

    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(8, 1)
        self.drawn = []

    def train_step(self, data, optim_wrapper):
        self.drawn.append((np.random.rand(), random.random()))
        x = data['inputs'].float()[:, 0, 0] / 255
        loss = self.fc(self.drop(x)).pow(2).mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach())


def run(folder, hook=True, seed=5, **kwargs):
    watcher, model = Watcher(), Random()
    with torch.no_grad():
        model.fc.weight.fill_(0.3)
        model.fc.bias.fill_(0.1)
    build_runner(
        folder,
        model,
        loader(make_dataset(12), shuffle=True),
        [watcher, *([dict(type='ReseedHook')] if hook else [])],
        epochs=4,
        default_hooks=dict(
            logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
        ),
        randomness=dict(seed=seed),
        **kwargs,
    ).train()
    return watcher.losses, model.drawn, model.fc.weight.tolist()


def resumed(tmp_path, **kwargs):
    whole = run(tmp_path / 'whole', **kwargs)
    rest = run(
        tmp_path / 'rest',
        resume=True,
        load_from=str(tmp_path / 'whole' / 'epoch_2.pth'),
        **kwargs,
    )
    assert len(whole[0]) == 12
    assert len(rest[0]) == 6
    return whole, rest


def test_registered():
    assert HOOKS.get('ReseedHook') is ReseedHook


def test_a_resumed_run_draws_what_the_whole_one_draws(tmp_path):
    (losses, drawn, weight), rest = resumed(tmp_path)
    assert rest[0] == losses[6:]
    assert rest[1] == drawn[6:]
    assert rest[2] == weight
    # and every iteration something else
    assert len(set(drawn)) == 12


def test_without_the_hook_it_does_not(tmp_path):
    (losses, drawn, _), rest = resumed(tmp_path, hook=False)
    assert rest[0] != losses[6:]
    assert rest[1] != drawn[6:]


def test_the_seed_matters(tmp_path):
    one, two = (run(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert one[0] != two[0]
    assert one[1] != two[1]


@pytest.mark.parametrize('attribute', ['seed', 'iter', 'rank'])
def test_numbers_depend_on(attribute, monkeypatch):
    class Run:
        seed = 3
        iter = 10

    def draw(run):
        ReseedHook().before_train_iter(run, 0)
        return torch.rand(3).tolist(), np.random.rand(), random.random()

    first = draw(Run)
    assert draw(Run) == first
    if attribute == 'rank':
        monkeypatch.setattr(module, 'get_rank', lambda: 1)
    else:
        setattr(Run, attribute, 4)
    for one, two in zip(draw(Run), first, strict=True):
        assert one != two


def test_a_run_without_a_seed():
    class Run:
        seed = None
        iter = 0

    ReseedHook().before_train_iter(Run, 0)
    numbers = torch.rand(3)
    Run.seed = 0
    ReseedHook().before_train_iter(Run, 0)
    assert torch.equal(torch.rand(3), numbers)
