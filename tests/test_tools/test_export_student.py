"""``tools/export_student.py``, as a user runs it."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
TOOL = os.path.join(ROOT, 'tools', 'export_student.py')
STUDENT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR',
        depth=18,
        stem_channels=4,
        base_channels=4,
        style='pytorch',
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
)
# What a deployer runs, on a machine without this package.
PLAIN = """
import json
import sys

sys.modules['mmkd_plugin'] = None  # importing it fails
import torch
from mmpretrain import ImageClassificationInferencer, get_model

config, checkpoint, image, batch = sys.argv[1:]
model = get_model(config, pretrained=checkpoint)
with torch.no_grad():
    logits = model(torch.load(batch))
inferencer = ImageClassificationInferencer(config, pretrained=checkpoint)
answer = inferencer(image)[0]
answer['pred_scores'] = answer['pred_scores'].tolist()
print('ANSWER', json.dumps([logits.tolist(), answer]))
"""


def run(*args):
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def files(tmp_path):
    """Config and checkpoint of a distillation."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student = MODELS.build(STUDENT)
    student.train(False)
    config = Config(
        dict(
            custom_imports=dict(imports=['mmkd_plugin']),
            model=dict(
                type='SingleTeacherDistill',
                student=STUDENT,
                teacher=dict(type='ImageClassifier'),
                teacher_ckpt='no_such_teacher.pth',
                data_preprocessor=dict(
                    type='BatchAugDataPreprocessor',
                    mean=[100.0, 110.0, 120.0],
                    std=[50.0, 60.0, 70.0],
                ),
            ),
            val_dataloader=dict(dataset=dict(type='CIFAR10')),
        )
    )
    config.dump(str(tmp_path / 'distil.py'))
    state = {f'student.{k}': v for k, v in student.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'epoch_1.pth')
    return tmp_path, student


def test_from_training_to_deployment(files):
    folder, student = files
    out = folder / 'out'
    out.mkdir()
    done = run(
        TOOL,
        str(folder / 'distil.py'),
        str(folder / 'epoch_1.pth'),
        str(out / 'small.pth'),
        '--onnx',
        str(out / 'small.onnx'),
        '--cfg-options',
        'input_size=8',
        'model.data_preprocessor.std="[25.0,25.0,25.0]"',
    )
    assert done.returncode == 0, done.stderr
    assert '10 classes, images of 8x8 pixels' in done.stdout
    assert 'largest deviation in onnxruntime' in done.stdout
    assert sorted(os.listdir(out)) == ['small.onnx', 'small.pth', 'small.py']

    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    cv2.imwrite(str(folder / 'image.png'), rgb[..., ::-1])
    batch = torch.randn(3, 3, 8, 8)
    torch.save(batch, folder / 'batch.pt')
    done = run(
        '-c',
        PLAIN,
        str(out / 'small.py'),
        str(out / 'small.pth'),
        str(folder / 'image.png'),
        str(folder / 'batch.pt'),
    )
    assert done.returncode == 0, done.stderr
    line = done.stdout.split('ANSWER ')[1]
    logits, answer = json.loads(line)
    with torch.no_grad():
        assert torch.allclose(torch.tensor(logits), student(batch), atol=1e-6)
        seen = torch.from_numpy((rgb - [100.0, 110.0, 120.0]) / 25.0)
        expected = student(seen.float().permute(2, 0, 1)[None]).softmax(1)[0]
    assert np.allclose(answer['pred_scores'], expected, atol=1e-6)
    classes = Config.fromfile(str(out / 'small.py'))
    classes = classes.test_dataloader.dataset.classes
    assert answer['pred_class'] == classes[expected.argmax()]
    assert classes[3] == 'cat'


def test_errors_are_one_message(files, monkeypatch):
    folder, _ = files
    out = folder / 'out'
    out.mkdir()
    monkeypatch.syspath_prepend(os.path.dirname(TOOL))
    import export_student

    config = str(folder / 'distil.py')
    checkpoint = str(folder / 'epoch_1.pth')
    for args, message in (
        (['no_such.py', checkpoint, 'x.pth'], 'no config no_such.py'),
        ([config, 'no_such.pth', 'x.pth'], 'no checkpoint no_such.pth'),
        ([config, checkpoint, str(out / 'x.pth')], 'give it with --input'),
    ):
        monkeypatch.setattr(sys, 'argv', ['export_student.py', *args])
        with pytest.raises(SystemExit) as info:
            export_student.main()
        assert info.value.code.startswith('error: ')
        assert message in info.value.code
    assert os.listdir(out) == []
