"""A trained generator as a file of its own, and as ONNX."""

import importlib.util
import json
import os
import pathlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from toy_generators import CONFIG, MEAN, STD, save_run, toy_generator

from mmkd_plugin.engine import generator_export
from mmkd_plugin.engine.generator_export import (
    export_generator,
    load_generator,
)
from mmkd_plugin.models.generators import MosaicGenerator
from mmkd_plugin.version import __version__

META = dict(
    format='mmkd_plugin.generator',
    version=1,
    generator=CONFIG,
    mean=MEAN,
    std=STD,
    checkpoint='iter_70.pth',
    iteration=70,
    mmkd_plugin_version=__version__,
)


@pytest.fixture(scope='module')
def generator():
    return toy_generator()


@pytest.fixture(scope='module')
def run(generator, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp('run') / 'iter_70.pth', generator)


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp('export')
    return export_generator(
        run, str(folder / 'g.pth'), onnx=str(folder / 'g.onnx')
    )


@pytest.fixture
def out(tmp_path):
    (tmp_path / 'out').mkdir()
    return tmp_path / 'out'


def same_images(one, other):
    z = torch.randn(3, one.latent_dim, generator=torch.Generator())
    with torch.no_grad():
        return torch.equal(one(z), other(z))


def change(path, out, edit):
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, out)
    return str(out)


def test_from_a_run(run, generator):
    loaded, meta = load_generator(run)
    assert type(loaded) is MosaicGenerator
    assert not any(module.training for module in loaded.modules())
    assert same_images(loaded, generator)
    assert meta == META


def test_from_an_export(exported, generator):
    loaded, meta = load_generator(exported.checkpoint)
    assert not any(module.training for module in loaded.modules())
    assert same_images(loaded, generator)
    assert meta == exported.meta == META


def test_exported_file_is_plain(exported, run, generator):
    content = torch.load(exported.checkpoint, weights_only=True)
    assert list(content) == ['meta', 'state_dict']
    assert content['meta'] == META
    assert json.loads(json.dumps(META)) == META
    state = generator.state_dict()
    assert list(content['state_dict']) == list(state)
    for key, value in content['state_dict'].items():
        assert torch.equal(value, state[key])
    names = os.listdir(os.path.dirname(exported.checkpoint))
    assert sorted(names) == ['g.onnx', 'g.pth']
    # Nor does it tell where it was made.
    for path in (exported.checkpoint, exported.onnx):
        data = pathlib.Path(path).read_bytes()
        assert b'site-packages' not in data
        assert os.path.dirname(run).encode() not in data


def test_an_export_can_be_exported(exported, out):
    again = export_generator(exported.checkpoint, str(out / 'g.pth'))
    assert again.meta == META
    assert (again.onnx, again.deviation) == (None, None)


def test_what_a_run_need_not_tell(generator, tmp_path):
    """Half of mmengine's objects cannot be read, and need not be."""
    meta = dict(log=HistoryBuffer([1.0], [1]))
    path = save_run(tmp_path / 'x.pth', generator, meta)
    assert load_generator(path)[1]['iteration'] is None


def test_scope_of_the_config_is_not_looked_for(run, generator, tmp_path):
    edit = put(HOOK, 'generator', '_scope_', 'no_such_package')
    path = change(run, tmp_path / 'x.pth', edit)
    assert same_images(load_generator(path)[0], generator)


@pytest.mark.parametrize('batch', [1, 4])
def test_onnx(exported, generator, batch):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.onnx)
    z = generator.sample_latent(batch, generator=torch.Generator())
    (images,) = session.run(['images'], {'noise': z.numpy()})
    with torch.no_grad():
        expected = generator(z).numpy()
    assert images.dtype == np.float32
    assert images.shape == (batch, 3, 8, 8)
    assert np.allclose(images, expected, atol=1e-6)
    assert expected.std() > 0.1
    assert 0 <= exported.deviation <= 1e-5
    model = onnx.load(exported.onnx)
    notes = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert notes == META


def test_a_deviating_onnx_is_not_written(run, out, monkeypatch):
    forward = MosaicGenerator.forward
    monkeypatch.setattr(
        MosaicGenerator,
        'forward',
        # The trace misses what happens to the batches that are compared.
        lambda self, z: forward(self, z) * (0.9 if len(z) == 5 else 1),
    )
    with pytest.raises(ValueError, match=r'from the generator .* 1\.\de-01'):
        export_generator(run, str(out / 'g.pth'), onnx=str(out / 'g.onnx'))
    assert os.listdir(out) == []


def hide(monkeypatch, *hidden):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *args: None if name in hidden else real(name, *args),
    )


def test_missing_onnx_packages(run, out, monkeypatch):
    hide(monkeypatch, 'onnxscript', 'onnxruntime')
    with pytest.raises(ImportError, match=r'--onnx needs onnxscript: pip '):
        export_generator(run, str(out / 'g.pth'), onnx=str(out / 'g.onnx'))
    assert os.listdir(out) == []


def test_onnx_without_a_runtime(run, out, monkeypatch):
    hide(monkeypatch, 'onnxruntime')
    said = []
    monkeypatch.setattr(
        generator_export, 'print_log', lambda text, **_: said.append(text)
    )
    export = export_generator(
        run, str(out / 'g.pth'), onnx=str(out / 'g.onnx')
    )
    assert export.deviation is None
    assert 'g.onnx is not compared with the generator' in said[0]
    assert sorted(os.listdir(out)) == ['g.onnx', 'g.pth']


def drop(*keys):
    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return edit


def put(*keys):
    *keys, last, value = keys

    def edit(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return edit


HOOK = 'mosaic_generator_hook'
WEIGHTS = (HOOK, 'players', 'generator')


@pytest.mark.parametrize(
    ('edit', 'match'),
    [
        (
            drop(HOOK),
            r'x\.pth holds no generator: .*with MosaicGeneratorHook .*nor a '
            r'file of tools/export_generator\.py; its keys are meta, state_d',
        ),
        (drop(HOOK, 'players'), r"Hook in .*x\.pth lacks \['players'\]; it h"),
        (drop(HOOK, 'mean'), r"lacks \['mean'\]; it has \['generator', 'play"),
        (put(HOOK, [1]), 'the state of .* is a list, not a dict'),
        (drop(*WEIGHTS), r"of the players .* lacks \['generator'\]"),
        (put(*WEIGHTS, 3), 'weights of the generator .* are a int, not'),
        (put(*WEIGHTS, {}), 'holds no weights'),
        (put(*WEIGHTS, 'project.bias', 3), 'not tensors: project.bias'),
        (drop(*WEIGHTS, 'project.bias'), r'1 missing: project\.bias$'),
        (put(*WEIGHTS, 'x', torch.zeros(1)), r'1 unexpected: x$'),
        (
            put(HOOK, 'generator', dict(CONFIG, base_channels=3)),
            r'from .*x\.pth do not fit the model.*of another shape: project',
        ),
        (
            put(*WEIGHTS, 'layers.0.bias', torch.full((8,), float('nan'))),
            r'x\.pth is broken: layers\.0\.bias is not finite',
        ),
        (put(HOOK, 'generator', 'x'), "a config with its type, but got 'x'"),
        (put(HOOK, 'generator', {}), r'with its type, but got \{\}'),
        (
            put(HOOK, 'generator', dict(CONFIG, type='MosaicGenerater')),
            "no 'MosaicGenerater' in the registry model; nearest: MosaicGen",
        ),
        (
            put(HOOK, 'generator', dict(CONFIG, image_sise=8)),
            r"generator of .*x\.pth: .*no option 'image_sise'; nearest: im",
        ),
        (
            put(HOOK, 'generator', dict(CONFIG, image_size=9)),
            r'generator of .*x\.pth: image_size must be a multiple of 4',
        ),
        (
            put(HOOK, 'generator', dict(type='PatchDiscriminator')),
            'PatchDiscriminator is no generator, it has no sample_latent, lat',
        ),
        (
            put(HOOK, 'mean', [1.0, 2.0]),
            r'mean in .*x\.pth must .* each of the 3 ch.*got \[1\.0, 2\.0\]',
        ),
        (put(HOOK, 'std', 5.0), r'std in .*x\.pth must be a list .*got 5\.0'),
        (
            put(HOOK, 'std', [1.0, 2.0, 'c']),
            r"std in .*x\.pth must be a finite number, but got 'c'",
        ),
    ],
)
def test_broken_run(run, tmp_path, edit, match):
    path = change(run, tmp_path / 'x.pth', edit)
    with pytest.raises(ValueError, match=f'(?s){match}'):
        load_generator(path)


@pytest.mark.parametrize(
    ('edit', 'match'),
    [
        (put('meta', 'version', 2), 'version 2 of the .* reads version 1'),
        (drop('meta', 'std'), r"`meta` in .*x\.pth lacks \['std'\]"),
        (drop('state_dict'), r"x\.pth lacks \['state_dict'\]"),
        (put('meta', 'format', 'other'), 'holds no generator'),
        (drop('state_dict', 'project.bias'), r'1 missing: project\.bias$'),
    ],
)
def test_broken_export(exported, tmp_path, edit, match):
    path = change(exported.checkpoint, tmp_path / 'x.pth', edit)
    with pytest.raises(ValueError, match=match):
        load_generator(path)


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no checkpoint .*no\.pth'):
        load_generator(str(tmp_path / 'no.pth'))
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(ValueError, match=r'text\.pth is truncated or not'):
        load_generator(str(tmp_path / 'text.pth'))


def test_a_file_cannot_choose_what_is_called(run, tmp_path, monkeypatch):
    """The engine's registry would import any type by its full name."""
    for kind in ('os.system', 'torch.nn.Linear', 'mmpretrain.ResNet'):
        path = change(
            run,
            tmp_path / 'x.pth',
            put(HOOK, 'generator', dict(type=kind, command='false')),
        )
        monkeypatch.setattr(os, 'system', lambda command: pytest.fail(command))
        with pytest.raises(ValueError, match=f"no '{kind}' in the registry"):
            load_generator(path)


def test_weights_of_a_wrapped_generator(run, tmp_path):
    def wrap(content):
        players = content[HOOK]['players']
        players['generator'] = OrderedDict(
            (f'module.{k}', v) for k, v in players['generator'].items()
        )

    path = change(run, tmp_path / 'x.pth', wrap)
    with pytest.raises(ValueError, match=r'without the prefix `module\.`'):
        load_generator(path)


def test_names(run, out):
    with pytest.raises(ValueError, match=r'end in \.pth, but got .*g\.pt$'):
        export_generator(run, str(out / 'g.pt'))
    with pytest.raises(ValueError, match=r'end in \.onnx, but got x\.bin'):
        export_generator(run, str(out / 'g.pth'), onnx='x.bin')
    with pytest.raises(FileNotFoundError, match=r'no folder .*nowhere'):
        export_generator(run, str(out / 'nowhere' / 'g.pth'))
    with pytest.raises(ValueError, match=r'iter_70\.pth would overwrite'):
        export_generator(run, run, force=True)
    assert os.listdir(out) == []


def test_existing_files_need_force(run, out):
    pth, onnx = out / 'g.pth', out / 'g.onnx'
    for path in (pth, onnx):
        path.write_text('old')
        with pytest.raises(FileExistsError, match=f'{path} exists. Use --f'):
            export_generator(run, str(pth), onnx=str(onnx))
        assert path.read_text() == 'old'
        path.unlink()
    pth.write_text('old')
    export_generator(run, str(pth), force=True)
    assert load_generator(str(pth))[1] == META
