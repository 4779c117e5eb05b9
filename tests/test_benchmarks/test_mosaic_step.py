"""The benchmark of MosaicKD's step: it runs, and measures what it says."""

import copy
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from toys import architecture

from mmkd_plugin.engine.mosaic_players import MosaicPlayers

ROOT = Path(__file__).parents[2]
PLAYERS = dict(
    generator=dict(type='MosaicGenerator', base_channels=2, image_size=8),
    discriminator=dict(
        type='PatchDiscriminator', base_channels=2, patch_size=4
    ),
)
CONFIG = 'mosaickd_wrn402_wrn161_cifar100_ood-cifar10.py'
# The same run as the benchmark's own, on networks that take no time.
SMALL = f"""
_base_ = [{str(ROOT / 'configs' / CONFIG)!r}]
net = {architecture(2)!r}
model = dict(
    teacher=dict(_delete_=True, **net),
    student=dict(_delete_=True, **net),
    data_preprocessor=dict(augments=None),
)
default_hooks = dict(mosaic=dict(student_steps=2, **{PLAYERS!r}))
"""


@pytest.fixture(scope='module')
def benchmark():
    path = ROOT / 'benchmarks' / 'mosaic_step.py'
    spec = importlib.util.spec_from_file_location('mosaic_step', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ratio_is_that_to_the_faster_floor(
    benchmark, tmp_path, capsys, monkeypatch
):
    hooks, iterations = [], []

    class Floor(benchmark.Floor):
        def __init__(self, hook, *args):
            super().__init__(hook, *args)
            hooks.append(hook)

    def seconds(step, device):
        step()
        if not isinstance(step, Floor):
            iterations.append(hooks[0].players._draws)
            return 2.5
        first = step.student.backbone.conv1.weight
        return 3.0 if first.is_contiguous() else 2.0

    monkeypatch.setattr(benchmark, 'Floor', Floor)
    monkeypatch.setattr(benchmark, '_seconds', seconds)
    config = tmp_path / 'small.py'
    config.write_text(SMALL)
    arguments = ['--config', str(config), '--batch', '4', '--rounds', '2']
    monkeypatch.setattr('sys.argv', ['mosaic_step.py', *arguments])
    benchmark.main()
    text = capsys.readouterr().out
    rows = re.findall(r'^(.*?) +([\d.]+) s +peak .*? ([\d.]+) MiB', text, re.M)
    assert [row[:2] for row in rows] == [
        ('floor, contiguous', '3.000'),
        ('floor, channels_last', '2.000'),
        ('ours', '2.500'),
    ]
    assert 'floor, channels_last: 1.250  (goal' in text
    assert all(float(row[2]) > 0 for row in rows)
    # Noise for an update and two steps, after a round to warm up.
    assert iterations == [6, 9]
    # In the format of the student, which is that of the config.
    for name in ('generator', 'discriminator'):
        net = getattr(hooks[0].players, name)
        assert any(not p.is_contiguous() for p in net.parameters()), name


def test_peak_is_what_is_held_at_once(benchmark):
    def step():
        for sizes in ((3,), (1, 4), (2, 2)):
            held = [torch.empty(size * 2**20 // 4) for size in sizes]
            del held

    cpu = torch.device('cpu')
    assert benchmark._peak(step, cpu) == 5 * 2**20


def test_floor_makes_each_step_of_the_algorithm(benchmark, monkeypatch):
    torch.manual_seed(0)
    teacher, student = (MODELS.build(architecture(2)) for _ in 'TS')
    teacher.requires_grad_(False).eval()
    before = student.head.fc.weight.detach().clone()
    players = MosaicPlayers(**PLAYERS, mean=[120.0] * 3, std=[60.0] * 3)
    hook = SimpleNamespace(players=players, student_steps=3)
    algorithm = SimpleNamespace(teacher=teacher, student=student)
    floor = benchmark.Floor(
        hook, algorithm, torch.randn(4, 3, 8, 8), torch.channels_last
    )
    steps = []
    step = benchmark.Floor._step

    def spy(loss, optimizer):
        assert loss.isfinite()
        states = [copy.deepcopy(net.state_dict()) for net in nets.values()]
        step(loss, optimizer)
        steps.append(
            [
                name
                for (name, net), old in zip(nets.items(), states, strict=True)
                if any(
                    not v.equal(old[k]) for k, v in net.state_dict().items()
                )
            ]
        )
        assert all(p.grad is None for p in floor.student.parameters())

    nets = {
        name: net
        for name, net in vars(floor).items()
        if isinstance(net, nn.Module)
    }
    assert len(nets) == 4
    monkeypatch.setattr(floor, '_step', spy)
    floor()
    assert steps == [['discriminator'], ['generator'], *[['student']] * 3]
    # Ours are left alone.
    assert student.head.fc.weight.equal(before)
    assert not floor.student.head.fc.weight.equal(before)
