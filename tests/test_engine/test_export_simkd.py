"""The exported student of SimKD has its projector and the teacher's head."""

import mmpretrain
import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmkd_plugin.engine.export import export_student

CLASSES = 5


def network(backbone, width, neck, features):
    return dict(
        type='ImageClassifier',
        backbone=dict(type=backbone, depth=8, width=width),
        neck=neck,
        head=dict(
            type='LinearClsHead', num_classes=CLASSES, in_channels=features
        ),
    )


def config():
    """A wide ResNet-8 teaches a narrow one, with maps of 4x4 made 2x2."""
    neck = dict(
        type='SimKDNeck',
        in_channels=64,
        out_channels=256,
        factor=8,
        map_size=2,
    )
    recorder = dict(type='ModuleOutputs', source='neck.projector')
    return Config(
        dict(
            custom_imports=dict(imports=['mmkd_plugin']),
            default_scope='mmpretrain',
            input_size=16,
            model=dict(
                type='SingleTeacherDistill',
                calculate_student_loss=False,
                reuse_teacher_head=True,
                student=network('CifarResNet', 1, neck, 256),
                teacher=network(
                    'CifarResNet', 4, dict(type='GlobalAveragePooling'), 256
                ),
                data_preprocessor=dict(
                    type='BatchAugDataPreprocessor',
                    mean=[1.0, 2.0, 3.0],
                    std=[4.0, 5.0, 6.0],
                ),
                distiller=dict(
                    type='ConfigurableDistiller',
                    student_recorders=dict(map=recorder),
                    teacher_recorders=dict(
                        map=dict(type='ModuleOutputs', source='backbone')
                    ),
                    connectors=dict(pool=dict(type='PoolConnector', size=2)),
                    distill_losses=dict(loss_simkd=dict(type='MSELoss')),
                    loss_forward_mappings=dict(
                        loss_simkd=dict(
                            preds_S=dict(from_student=True, recorder='map'),
                            preds_T=dict(
                                from_student=False,
                                recorder='map',
                                data_idx=-1,
                                connector='pool',
                            ),
                        )
                    ),
                ),
            ),
        )
    )


@pytest.fixture
def run(tmp_path):
    """A short run, its config and its checkpoint."""
    whole = config()
    built = whole.model.to_dict()
    with (
        torch.random.fork_rng(devices=[]),
        DefaultScope.overwrite_default_scope('mmpretrain'),
    ):
        torch.manual_seed(0)
        teacher = MODELS.build(built.pop('teacher'))
        teacher.head.fc.weight.data.normal_()
        model = MODELS.build(dict(built, teacher=teacher)).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            terms = model(torch.randn(4, 3, 16, 16), mode='loss')
            optimizer.zero_grad()
            terms['distill.loss_simkd'].backward()
            optimizer.step()
    model.eval()
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return whole, str(path), model


def test_exported_student(run, tmp_path):
    whole, checkpoint, model = run
    export = export_student(
        whole,
        checkpoint,
        str(tmp_path / 'small.pth'),
        onnx=str(tmp_path / 'small.onnx'),
    )
    assert export.packages == ['mmkd_plugin']
    plain = Config.fromfile(export.config)
    assert plain.custom_imports.imports == ['mmkd_plugin']
    content = torch.load(export.checkpoint, weights_only=True)['state_dict']
    assert list(content) == list(model.student.state_dict())
    assert torch.equal(content['head.fc.weight'], model.teacher.head.fc.weight)
    assert any(key.startswith('neck.projector.') for key in content)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        # From the projector to the teacher's own head.
        feature = model.student.backbone(images)[-1]
        feature = model.student.neck.pool(feature)
        feature = model.student.neck.projector(feature).mean((2, 3))
        expected = model.teacher.head.fc(feature)
    loaded = mmpretrain.get_model(export.config, pretrained=export.checkpoint)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), expected)
    assert type(loaded) is mmpretrain.models.ImageClassifier
    # It trains on as any classifier does.
    assert all(p.requires_grad for p in loaded.parameters())
    session = onnxruntime.InferenceSession(export.onnx)
    (logits,) = session.run(['logits'], {'input': images.numpy()})
    assert np.allclose(logits, expected, atol=1e-4)
    assert export.deviation <= 1e-4
