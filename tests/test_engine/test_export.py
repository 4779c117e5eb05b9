"""A distilled student as files that need nothing of this package."""

import importlib.util
import json
import os

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import mmkd_plugin  # noqa: F401
from mmkd_plugin.engine.export import HEADER, export_student
from mmkd_plugin.engine.export import student as export_module

MEAN, STD = [10.0, 120.0, 200.0], [50.0, 60.0, 70.0]
CIFAR = [
    'airplane',
    'automobile',
    'bird',
    'cat',
    'deer',
    'dog',
    'frog',
    'horse',
    'ship',
    'truck',
]
ARRAYS = dict(type='PackedImages', data_file='no_such_file.npz')
FILES = dict(
    type='CustomDataset',
    data_root='no_such_folder',
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=10),
        dict(type='CenterCrop', crop_size=8),
        dict(type='PackInputs'),
    ],
)


def student_config(num_classes=10):
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=4,
            base_channels=4,
            style='pytorch',
            init_cfg=dict(type='Pretrained', checkpoint='no_such.pth'),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=num_classes, in_channels=32
        ),
        train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)),
    )


def distillation(**changes):
    """Whose teacher can be neither built nor loaded."""
    config = dict(
        model=dict(
            type='SingleTeacherDistill',
            student=student_config(),
            teacher=dict(type='NoSuchModel'),
            teacher_ckpt='no_such_teacher.pth',
            distiller=dict(type='NoSuchDistiller'),
            data_preprocessor=dict(
                type='BatchAugDataPreprocessor',
                mean=MEAN,
                std=STD,
                augments=[
                    dict(type='BatchRandomFlip'),
                    dict(type='BatchRandomCrop', crop_size=8, padding=1),
                ],
            ),
        ),
        train_dataloader=dict(dataset=ARRAYS),
        val_dataloader=dict(
            dataset=dict(
                type='InMemoryImages',
                dataset=dict(type='CIFAR10', data_root='no_such_folder'),
            )
        ),
        custom_imports=dict(imports=['mmkd_plugin']),
    )
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    return Config(config)


def build(config, seed=1):
    """Build a student whose batch norms are not the identity."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config)
    for name, value in model.state_dict().items():
        if value.dtype == torch.float32 and 'weight' not in name:
            value.uniform_(0.5, 1.5)
    model.train(False)
    return model


def save(path, student, prefix='student.', **more):
    state = {prefix + k: v for k, v in student.state_dict().items()}
    if prefix:
        state['distiller.connectors.front.conv.weight'] = torch.zeros(2, 2)
    content = dict(
        state_dict=state,
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))),
        meta=dict(epoch=1, dataset_meta=dict(classes=['wrong'] * 10)),
    )
    torch.save({**content, **more}, path)
    return str(path)


@pytest.fixture(scope='module')
def student():
    return build(student_config())


@pytest.fixture(scope='module')
def checkpoint(student, tmp_path_factory):
    return save(tmp_path_factory.mktemp('run') / 'epoch_1.pth', student)


@pytest.fixture(scope='module')
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp('export')
    return export_student(
        distillation(),
        checkpoint,
        str(folder / 'small.pth'),
        onnx=str(folder / 'small.onnx'),
    )


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(5, 3, 8, 8)


def logits_of(model, images):
    with torch.no_grad():
        return model(images)


def test_loads_in_plain_mmpretrain(exported, student, images):
    model = mmpretrain.get_model(
        exported.config, pretrained=exported.checkpoint
    )
    assert type(model) is mmpretrain.models.ImageClassifier
    assert torch.equal(logits_of(model, images), logits_of(student, images))
    assert type(model.data_preprocessor).__name__ == 'ClsDataPreprocessor'
    assert model.data_preprocessor.mean.flatten().tolist() == MEAN
    assert model.data_preprocessor.batch_augments is None


def test_files_are_plain(exported, student):
    content = torch.load(exported.checkpoint, weights_only=True)
    assert set(content) == {'state_dict', 'meta'}
    assert list(content['state_dict']) == list(student.state_dict())
    assert content['meta']['dataset_meta'] == dict(classes=CIFAR)
    with open(exported.config, encoding='utf-8') as file:
        text = file.read()
    assert text.startswith(HEADER)
    text = text.removeprefix(HEADER)
    for word in ('mmkd_plugin', 'custom_imports', 'no_such', 'Mixup'):
        assert word not in text
    names = os.listdir(os.path.dirname(exported.checkpoint))
    assert sorted(names) == ['small.onnx', 'small.pth', 'small.py']
    assert exported.packages == []
    assert exported.classes == CIFAR
    assert exported.num_classes == 10


@pytest.mark.parametrize(
    ('dataset', 'to_rgb', 'sees_rgb'),
    [
        (ARRAYS, False, True),
        (ARRAYS, True, False),
        (FILES, True, True),
        (FILES, False, False),
        (dict(type='InMemoryImages', dataset=FILES), True, True),
        (None, False, True),
    ],
)
def test_image_files_give_the_right_answer(
    dataset, to_rgb, sees_rgb, checkpoint, student, tmp_path
):
    """The student's channel order in training is kept for files."""
    changes = dict(train_dataloader=dataset and dict(dataset=dataset))
    if dataset is None:
        changes['val_dataloader'] = None
    config = distillation(**changes)
    config.model.data_preprocessor.to_rgb = to_rgb
    out = str(tmp_path / 'small.pth')
    export = export_student(config, checkpoint, out)

    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    path = str(tmp_path / 'image.png')
    cv2.imwrite(path, rgb[..., ::-1])
    array = rgb if sees_rgb else rgb[..., ::-1]
    seen = torch.from_numpy((array - MEAN) / STD).float().permute(2, 0, 1)
    expected = logits_of(student, seen[None]).softmax(1)[0].numpy()

    inferencer = mmpretrain.ImageClassificationInferencer(
        export.config, pretrained=export.checkpoint
    )
    answer = inferencer(path)[0]
    assert np.allclose(answer['pred_scores'], expected, atol=1e-6)
    swapped = logits_of(student, seen[None].flip(1)).softmax(1)[0].numpy()
    assert not np.allclose(swapped, expected, atol=1e-4)
    if dataset is not None:
        assert answer['pred_class'] == CIFAR[expected.argmax()]


def test_image_files_are_resized(exported):
    inferencer = mmpretrain.ImageClassificationInferencer(
        exported.config, pretrained=exported.checkpoint
    )
    image = np.random.default_rng(0).integers(0, 256, (31, 17, 3), np.uint8)
    small = cv2.resize(image, (8, 8), interpolation=cv2.INTER_LINEAR)
    scores = [inferencer(x)[0]['pred_scores'] for x in (image, small)]
    assert np.allclose(*scores, atol=1e-6)


@pytest.mark.parametrize('batch', [1, 4])
def test_onnx(exported, student, batch):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.onnx)
    images = torch.randn(batch, 3, 8, 8)
    (logits,) = session.run(['logits'], {'input': images.numpy()})
    assert np.allclose(logits, logits_of(student, images), atol=1e-5)
    assert 0 <= exported.deviation <= 1e-4

    model = onnx.load(exported.onnx)
    notes = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert notes == dict(
        mean=MEAN, std=STD, channel_order='rgb', classes=CIFAR
    )
    # Nor does it tell where it was made.
    assert b'site-packages' not in model.SerializeToString()


def test_a_deviating_onnx_is_not_written(
    checkpoint, tmp_path, monkeypatch, student
):
    real = export_module._Logits.forward

    def forward(self, input):
        # The trace misses what happens to the batches that are compared.
        return real(self, input) * (1 if input.shape[0] != 5 else 1.001)

    monkeypatch.setattr(export_module._Logits, 'forward', forward)
    with pytest.raises(ValueError, match=r'deviates .* by 1\.0e-03'):
        export_student(
            distillation(),
            checkpoint,
            str(tmp_path / 'small.pth'),
            onnx=str(tmp_path / 'small.onnx'),
        )
    assert os.listdir(tmp_path) == []


def test_an_impossible_opset(checkpoint, tmp_path):
    with pytest.raises(ValueError, match='opset 99, only with'):
        export_student(
            distillation(),
            checkpoint,
            str(tmp_path / 'small.pth'),
            onnx=str(tmp_path / 'small.onnx'),
            opset=99,
        )
    assert os.listdir(tmp_path) == []


def test_missing_onnx_packages(checkpoint, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *args: None if 'onnx' in name else real(name, *args),
    )
    with pytest.raises(ImportError, match=r"onnxruntime.*plugin\[tests\]'"):
        export_student(
            distillation(),
            checkpoint,
            str(tmp_path / 'small.pth'),
            onnx=str(tmp_path / 'small.onnx'),
        )
    assert os.listdir(tmp_path) == []


def test_a_plain_classifier(student, tmp_path, images):
    path = save(tmp_path / 'epoch_1.pth', student, prefix='')
    config = Config(
        dict(
            model=student_config(),
            data_preprocessor=dict(
                mean=MEAN, std=STD, to_rgb=True, num_classes=10
            ),
            train_dataloader=dict(dataset=FILES),
            test_dataloader=dict(dataset=FILES),
        )
    )
    export = export_student(config, path, str(tmp_path / 'out.pth'))
    model = mmpretrain.get_model(export.config, pretrained=export.checkpoint)
    assert torch.equal(logits_of(model, images), logits_of(student, images))
    assert model.data_preprocessor.to_rgb
    # The test pipeline of files is kept, its crop is the input size.
    pipeline = model._config.test_dataloader.dataset.pipeline
    assert [t.type for t in pipeline] == [t['type'] for t in FILES['pipeline']]
    assert export.input_size == (8, 8)


def test_a_classifier_with_batch_augmentation(student, tmp_path):
    """As teachers are trained here; the stock preprocessor replaces it."""
    path = save(tmp_path / 'epoch_1.pth', student, prefix='')
    config = distillation()
    preprocessor = config.model.data_preprocessor
    config.model = {**student_config(), 'data_preprocessor': preprocessor}
    export = export_student(config, path, str(tmp_path / 'out.pth'))
    assert export.packages == []
    plain = Config.fromfile(export.config)
    assert 'custom_imports' not in plain
    assert plain.model.data_preprocessor.to_dict() == dict(
        type='ClsDataPreprocessor', mean=MEAN, std=STD, to_rgb=True
    )


def test_student_from_another_config(checkpoint, tmp_path, student, images):
    Config(dict(model=student_config())).dump(str(tmp_path / 'model.py'))
    config = distillation()
    config.model.student = dict(cfg_path=str(tmp_path / 'model.py'))
    export = export_student(config, checkpoint, str(tmp_path / 'out.pth'))
    model = mmpretrain.get_model(export.config, pretrained=export.checkpoint)
    assert torch.equal(logits_of(model, images), logits_of(student, images))


def test_student_of_this_package(tmp_path, images):
    """It cannot do without the package, and the export says so."""
    student = dict(
        type='TorchvisionClassifier',
        model_name='resnet18',
        num_classes=10,
        weights='DEFAULT',
    )
    config = distillation()
    config.model.student = student
    built = build({**student, 'weights': None})
    path = save(tmp_path / 'epoch_1.pth', built)
    export = export_student(config, path, str(tmp_path / 'out.pth'))
    assert export.packages == ['mmkd_plugin']
    plain = Config.fromfile(export.config)
    assert plain.custom_imports.imports == ['mmkd_plugin']
    assert 'weights' not in plain.model
    model = mmpretrain.get_model(export.config, pretrained=export.checkpoint)
    assert torch.equal(logits_of(model, images), logits_of(built, images))


@pytest.mark.parametrize(
    ('changes', 'given', 'expected'),
    [
        ({}, None, (8, 8)),
        ({}, 16, (16, 16)),
        ({}, [16], (16, 16)),
        ({}, [16, 24], (16, 24)),
        (dict(input_size=12), None, (12, 12)),
        (dict(input_size=(12, 10)), None, (12, 10)),
        (dict(input_size=12), [16], (16, 16)),
    ],
)
def test_input_size(changes, given, expected, checkpoint, tmp_path):
    out = str(tmp_path / 'out.pth')
    config = distillation(**changes)
    export = export_student(config, checkpoint, out, input_size=given)
    assert export.input_size == expected
    dataset = Config.fromfile(export.config).test_dataloader.dataset
    # mmcv counts width first.
    assert dataset.pipeline[1].scale == expected[::-1]


def test_class_names(checkpoint, tmp_path, student):
    """Those of the evaluation data, else of the run, if their number fits."""
    out = str(tmp_path / 'out.pth')
    named = dict(dataset=dict(type='CIFAR10', classes=list('abcdefghij')))
    config = distillation(val_dataloader=named)
    export = export_student(config, checkpoint, out)
    assert export.classes == list('abcdefghij')

    config = distillation(
        val_dataloader=dict(dataset=dict(type='DemoDigits', split='val'))
    )
    export = export_student(config, checkpoint, out)
    assert export.classes == [str(digit) for digit in range(10)]

    wrong = dict(dataset=dict(type='CIFAR100'))
    config = distillation(val_dataloader=wrong)
    assert export_student(config, checkpoint, out).classes == ['wrong'] * 10

    config = distillation(val_dataloader=dict(dataset=ARRAYS))
    path = save(tmp_path / 'no_meta.pth', student, meta={})
    assert export_student(config, path, out).classes is None


def test_averaged_weights(student, checkpoint, tmp_path, images):
    """EMAHook has put them under ``state_dict``, the others aside."""
    trained = build(student_config(), seed=2).state_dict()
    path = save(
        tmp_path / 'ema.pth',
        student,
        ema_state_dict={f'module.student.{k}': v for k, v in trained.items()},
    )
    for ema in (False, True):
        out = str(tmp_path / f'{ema}.pth')
        export = export_student(distillation(), path, out, ema=ema)
        model = mmpretrain.get_model(export.config, pretrained=out)
        assert torch.equal(
            logits_of(model, images), logits_of(student, images)
        )
    with pytest.raises(ValueError, match='no averaged weights'):
        export_student(
            distillation(), checkpoint, str(tmp_path / 'x.pth'), ema=True
        )


class TestErrors:
    """Each is one message, and nothing is written."""

    @pytest.fixture(autouse=True)
    def _nothing_is_written(self, tmp_path):
        self.out = tmp_path / 'out'
        self.out.mkdir()
        yield
        assert os.listdir(self.out) == []

    def export(self, config, checkpoint, name='out.pth', **kwargs):
        export_student(config, checkpoint, str(self.out / name), **kwargs)

    def test_checkpoint(self, tmp_path, student):
        config = distillation()
        with pytest.raises(FileNotFoundError, match=r'no checkpoint .*no\.p'):
            self.export(config, str(tmp_path / 'no.pth'))
        (tmp_path / 'text.pth').write_text('hello')
        with pytest.raises(ValueError, match=r'text\.pth is truncated or not'):
            self.export(config, str(tmp_path / 'text.pth'))
        path = save(tmp_path / 'plain.pth', student, prefix='')
        with pytest.raises(
            ValueError, match=r'no weights of a student .*backbone\.conv1'
        ):
            self.export(config, path)

    def test_weights_that_do_not_fit(self, tmp_path, checkpoint, student):
        config = distillation()
        config.model.student = student_config(num_classes=7)
        with pytest.raises(ValueError) as info:
            self.export(config, checkpoint)
        assert (
            '2 of another shape: head.fc.weight: checkpoint (10, 32) vs '
            'model (7, 32)'
        ) in str(info.value)

        state = student.state_dict()
        state['extra.weight'] = state.pop('head.fc.bias')
        state = {f'student.{k}': v for k, v in state.items()}
        path = str(tmp_path / 'x.pth')
        torch.save(dict(state_dict=state), path)
        with pytest.raises(
            ValueError,
            match=r'1 missing: head\.fc\.bias\n1 unexpected: extra\.weight',
        ):
            self.export(distillation(), path)

    def test_not_finite(self, tmp_path):
        student = build(student_config())
        student.head.fc.bias.data[3] = float('nan')
        path = save(tmp_path / 'nan.pth', student)
        with pytest.raises(ValueError, match='not finite'):
            self.export(distillation(), path)

    def test_names(self, checkpoint, tmp_path):
        with pytest.raises(ValueError, match=r'end in \.pth, but got .*out'):
            self.export(distillation(), checkpoint, 'out.pt')
        with pytest.raises(ValueError, match=r'end in \.onnx, but got x'):
            self.export(distillation(), checkpoint, onnx='x.bin')
        with pytest.raises(FileNotFoundError, match=r'no folder .*nowhere'):
            self.export(distillation(), checkpoint, 'nowhere/out.pth')

    def test_input_size(self, checkpoint):
        config = distillation()
        del config.model.data_preprocessor.augments
        with pytest.raises(ValueError, match='give it with --input-size'):
            self.export(config, checkpoint)
        for size in (0, -3, [8, 0], [1, 2, 3]):
            with pytest.raises(ValueError, match='input_size must be'):
                self.export(config, checkpoint, input_size=size)

    def test_preprocessor(self, checkpoint):
        config = distillation()
        config.model.data_preprocessor = dict(type='ImgDataPreprocessor')
        with pytest.raises(ValueError, match="got 'ImgDataPreprocessor'"):
            self.export(config, checkpoint, input_size=8)

    def test_no_model(self, checkpoint):
        with pytest.raises(ValueError, match='has no `model`'):
            self.export(Config(dict(a=1)), checkpoint)


def test_nothing_else_is_overwritten(student, tmp_path):
    path = save(tmp_path / 'run.pth', student)
    with pytest.raises(ValueError, match=r'run\.pth would overwrite'):
        export_student(distillation(), path, path)

    out = str(tmp_path / 'small.pth')
    mine = tmp_path / 'small.py'
    mine.write_text('a = 1\n')
    with pytest.raises(ValueError, match=r'small\.py exists and was not'):
        export_student(distillation(), path, out)
    assert mine.read_text() == 'a = 1\n'
    mine.unlink()

    # An earlier export is replaced, unless it is read from.
    for _ in range(2):
        export = export_student(distillation(), path, out)
    config = Config.fromfile(export.config)
    exported = save(tmp_path / 'exported.pth', student, prefix='')
    with pytest.raises(ValueError, match='choose another name'):
        export_student(config, exported, out)
