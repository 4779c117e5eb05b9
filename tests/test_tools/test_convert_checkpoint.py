"""``tools/convert_checkpoint.py``, as a user runs it."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from published_networks import published_state

from mmkd_plugin.utils.checkpoint import load_weights

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
TOOL = os.path.join(ROOT, 'tools', 'convert_checkpoint.py')
MODEL = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='BatchAugDataPreprocessor',
        mean=[129.304, 124.070, 112.434],
        std=[68.170, 65.392, 70.418],
    ),
    backbone=dict(type='CifarResNet', depth=8, width=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=256),
)


@pytest.fixture
def files(tmp_path):
    """Config, published checkpoint, and an empty folder for the result."""
    config = Config(
        dict(custom_imports=dict(imports=['mmkd_plugin']), model=MODEL)
    )
    config.dump(str(tmp_path / 'resnet8x4.py'))
    state = published_state('resnet8x4')
    torch.save(dict(epoch=240, model=state), tmp_path / 'ckpt_epoch_240.pth')
    (tmp_path / 'out').mkdir()
    return (
        str(tmp_path / 'resnet8x4.py'),
        str(tmp_path / 'ckpt_epoch_240.pth'),
        str(tmp_path / 'out' / 'resnet8x4.pth'),
    )


def test_conversion(files):
    done = subprocess.run(
        [sys.executable, TOOL, *files],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    _, source, out = files
    lines = done.stdout.splitlines()
    assert 'found: resnet8x4 (RepDistiller, mdistiller), 100 classes' in lines
    assert 'taken: 62 tensors, 1,233,540 parameters' in lines
    assert lines[-1] == f'written: {out}'
    published, weights = load_weights(source), load_weights(out)
    assert len(weights) == len(published) == 62
    assert torch.equal(weights['head.fc.weight'], published['fc.weight'])


def test_errors_are_one_message(files, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(TOOL))
    import convert_checkpoint

    config, source, out = files
    folder = os.path.dirname(out)
    broken = os.path.join(os.path.dirname(config), 'broken.py')
    with open(broken, 'w') as file:
        file.write('model = dict(\n')
    depth = ['--cfg-options', 'model.backbone.depth=20']
    for args, message in (
        (['no_such.py', source, out], 'no config file no_such.py'),
        ([folder, source, out], f'no config file {folder}'),
        ([source, source, out], 'Only py/yml/yaml/json type are supported'),
        ([broken, source, out], 'was never closed'),
        ([config, 'no_such.pth', out], 'There is no checkpoint no_such.pth'),
        ([config, folder, out], 'is a directory, not a file'),
        ([config, source, 'no/such.pth'], 'there is no folder'),
        ([config, source, source], 'would overwrite'),
        ([config, source, out, *depth], 'is resnet8x4 (RepDistiller'),
    ):
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *args])
        with pytest.raises(SystemExit) as info:
            convert_checkpoint.main()
        assert info.value.code.startswith('error: ')
        assert message in info.value.code
    assert os.listdir(folder) == []


def test_force(files, monkeypatch, capsys):
    monkeypatch.syspath_prepend(os.path.dirname(TOOL))
    import convert_checkpoint

    _, _, out = files
    with open(out, 'w') as file:
        file.write('mine')
    monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *files])
    with pytest.raises(SystemExit, match=r'exists\. Use --force'):
        convert_checkpoint.main()
    with open(out) as file:
        assert file.read() == 'mine'
    sys.argv.append('--force')
    convert_checkpoint.main()
    assert f'written: {out}\n' in capsys.readouterr().out
    assert len(load_weights(out)) == 62
