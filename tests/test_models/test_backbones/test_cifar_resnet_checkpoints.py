"""Trained CIFAR-10 networks of akamaster/pytorch_resnet_cifar10."""

import io
import zipfile

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from shared_data import shared_file

import mmkd_plugin  # noqa: F401
from mmkd_plugin.utils.checkpoint import load_strict, load_weights

COUNT = 200


@pytest.fixture(scope='module')
def cifar10():
    """The first images of the test set, normalised, and their labels."""
    with zipfile.ZipFile(shared_file('data/cifar10_q90.zip')) as pack:
        # 500 images a strip; the test set follows 50000 others.
        strip = Image.open(io.BytesIO(pack.read('00100.webp'))).convert('RGB')
        labels = np.load(io.BytesIO(pack.read('labels.npy')))
    pixels = np.asarray(strip).reshape(-1, 32, 32, 3)[:COUNT]
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2) / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    labels = torch.from_numpy(labels[50000 : 50000 + COUNT].astype('int64'))
    return (x - mean) / std, labels


@pytest.mark.parametrize('depth', [20, 32, 44, 56])
@torch.no_grad()
def test_trained_network_classifies(depth, cifar10):
    path = shared_file(f'data/checkpoints/cifar10_resnet{depth}_akamaster.pth')
    state = {
        f'head.fc.{key.removeprefix("linear.")}'
        if key.startswith('linear.')
        else f'backbone.{key}': value
        for key, value in load_weights(str(path)).items()
    }
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type='mmengine.CifarResNet', depth=depth, shortcut='pad'
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
        )
    ).eval()
    load_strict(model, state, 'teacher', str(path))
    images, labels = cifar10
    predictions = model.head.predict(model.extract_feat(images))
    right = [
        prediction.pred_label.item() == label.item()
        for prediction, label in zip(predictions, labels, strict=True)
    ]
    # Measured on all 10000 exact test images: 91.7 to 93.4 percent.
    assert sum(right) / len(right) > 0.8
