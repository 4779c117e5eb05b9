"""The benchmark of the knowledge points: it measures what it says."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch.testing import assert_close
from toys import architecture, teacher

from mmkd_plugin.explain import cell_energy, entropy_flow

ROOT = Path(__file__).parents[2]
PREPROCESSOR = dict(
    type='BatchAugDataPreprocessor', mean=[97.0] * 3, std=[50.0] * 3
)
CONFIG = f"""
model = dict({architecture(4, stages=2, classes=10)!r},
    data_preprocessor={PREPROCESSOR!r})
layer = 'backbone.layer2'
test_dataloader = dict(dataset=dict(
    type='DemoScenes', split='test', num_images=40))
"""


@pytest.fixture
def benchmark(monkeypatch):
    path = ROOT / 'benchmarks' / 'explain.py'
    spec = importlib.util.spec_from_file_location('explain_benchmark', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'FEW', (2, 4))
    monkeypatch.setattr(module, 'MANY', 16)
    return module


@pytest.fixture
def arguments(tmp_path):
    """Get the options for a network that has not been trained."""
    config = tmp_path / 'scenes.py'
    config.write_text(CONFIG)
    checkpoint = tmp_path / 'net.pth'
    net = teacher(width=4, stages=2, classes=10)
    torch.save(dict(state_dict=net.state_dict()), checkpoint)
    return [
        *('--part', 'trained', '--config', str(config)),
        *('--checkpoint', str(checkpoint)),
        *('--images', '3', '--rounds', '2', '--lam', '7'),
        *('--flow-images', '5'),
    ]


def test_agreement(benchmark):
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    correlation, distance = benchmark.agreement(first, 5 - first)
    assert correlation == pytest.approx(-1)
    assert distance == pytest.approx(5**0.5)


def test_flow_is_compared_with_the_released_procedure(
    benchmark, arguments, capsys, monkeypatch
):
    calls = []
    ticks = iter([9.0, 1.0, 3.0, 400.0])

    def timed(function):
        return function(), next(ticks)

    def sgd(feature_fn, images, grid, **options):
        calls.append(options)
        energy = cell_energy(
            feature_fn, images, grid, generator=benchmark.generator()
        )
        found = entropy_flow(energy, lam=options['lam'])
        return found._replace(entropy=found.entropy + shift)

    monkeypatch.setattr(benchmark, 'timed', timed)
    monkeypatch.setattr(benchmark, 'entropy_sgd', sgd)
    shift = 0.03
    assert benchmark.main(arguments) == 0
    text = capsys.readouterr().out
    assert 'scenes.py, backbone.layer2, 3 images of 32 x 32' in text
    assert 'correlation 1.0000' in text and 'distance 0.0300 nat' in text
    # The median of the rounds after the first, over 5 images; 3 with noise.
    rows = re.findall(r'^(flow|sgd) .* +([\d.]+)$', text, re.M)
    assert rows == [('flow', '0.4000'), ('sgd', '133.3333')]
    assert 'time of the flow 0.30% of sgd' in text
    assert len(re.findall(r'^ +[24]   0\.\d+$', text, re.M)) == 2
    # With the released constants, but for the weight.
    assert [{*options} for options in calls] == [{'lam', 'generator'}]
    assert calls[0]['lam'] == 7

    shift, ticks = 0.1, iter([9.0, 1.0, 3.0, 400.0])
    assert benchmark.main(arguments) == 1
    shift, ticks = 0.0, iter([9.0, 1.0, 3.0, 90.0])
    assert benchmark.main(arguments) == 1
    assert '1.33% of sgd' in capsys.readouterr().out


def test_images_are_those_of_training(benchmark, arguments, monkeypatch):
    seen = []
    energy = benchmark.cell_energy

    def watching(feature_fn, images, *args, **options):
        seen.append(images)
        return energy(feature_fn, images, *args, **options)

    monkeypatch.setattr(benchmark, 'cell_energy', watching)
    monkeypatch.setattr(
        benchmark,
        'entropy_sgd',
        lambda f, images, grid, lam, generator: entropy_flow(
            energy(f, images, grid, 4), lam=lam
        ),
    )
    benchmark.main(arguments)
    image = seen[0]
    assert image.shape == (5, 3, 32, 32)
    preprocessor = MODELS.build(PREPROCESSOR)
    grey = 50 * image + 97
    assert_close(grey, grey.round(), rtol=0, atol=1e-3)
    again = preprocessor(dict(inputs=grey.round().byte()), training=False)
    assert_close(again['inputs'], image)


def test_another_config_needs_its_checkpoint(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(['--config', 'mine.py'])
    assert '--config needs --checkpoint' in capsys.readouterr().err


def test_process_is_measured_apart(benchmark):
    # 3 x 64 x 64 numbers an image, 512 x 2 x 2 in its feature. The kept maps
    # alone take 1.7 MiB an image.
    budget = 128 * benchmark.MIB
    found = benchmark.measure_apart(budget, 33, 64)
    assert 1 < found['at_once'] < 33
    least = found['at_once'] * 1.7 * benchmark.MIB
    assert least < found['growth'] <= budget
    assert found['seconds'] > 0


def test_growth_is_the_most_that_is_held(benchmark, monkeypatch):
    def energy(feature_fn, images, grid, *probes, **options):
        if grid != benchmark.GRID:
            return
        for _ in range(3):
            feature_fn(images)
        for size in (30, 90, 20):
            held = torch.ones(size * 2**18)
            del held

    monkeypatch.setattr(benchmark, 'cell_energy', energy)
    # In a process that has been larger before, more may be said.
    found = benchmark.measure(1, 2, 32)
    assert found['growth'] > 89 * benchmark.MIB
    assert found['at_once'] == 2


def test_exceeded_budget_is_told(benchmark, capsys, monkeypatch):
    tasks = []

    def measured(memory, count, side):
        tasks.append((memory, count, side))
        return dict(seconds=2.0, once=2**20, growth=300 * 2**20, at_once=5)

    monkeypatch.setattr(benchmark, 'measure_apart', measured)
    monkeypatch.setattr(benchmark, 'GRID', (4, 4))
    arguments = ['--part', 'resnet18', '--side', '32', '--memory']
    assert benchmark.main([*arguments, '299', '300']) == 1
    text = capsys.readouterr().out
    rows = re.findall(r'^ +(299|300) +(.*)$', text, re.M)
    assert [re.split(r' {2,}', row[1]) for row in rows] == [
        ['300.0', '1.0', '5', '2.000', 'budget exceeded'],
        ['300.0', '1.0', '5', '2.000'],
    ]
    assert benchmark.main([*arguments, '300']) == 0
    # More images than fit.
    assert tasks[1][0] == 300 * 2**20 and tasks[1][2] == 32
    assert tasks[1][1] > 100
