"""Data sets of mmpretrain, read into one array."""

import pickle

import mmpretrain.datasets.cifar
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmkd_plugin.datasets import InMemoryImages


@pytest.fixture(autouse=True)
def _mmpretrain():
    init_default_scope('mmpretrain')


def make_images(num, side=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder in the layout of CIFAR-100, of 5 + 3 images."""
    folder = tmp_path / 'cifar-100-python'
    folder.mkdir()
    contents = {}
    for seed, (name, num) in enumerate((('train', 5), ('test', 3))):
        images = make_images(num, seed=seed)
        labels = list(range(90, 90 + num))
        contents[name] = images, labels
        # Rows of 1024 reds, 1024 greens and 1024 blues; keys are bytes
        # strings of Python 2, for which latin1 is given.
        entry = dict(
            data=images.transpose(0, 3, 1, 2).reshape(num, 3072),
            fine_labels=labels,
            coarse_labels=[0] * num,
            filenames=[f'{i}.png' for i in range(num)],
        )
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    (folder / 'meta').write_bytes(
        pickle.dumps(dict(fine_label_names=['x'] * 100), protocol=2)
    )
    monkeypatch.setattr(
        mmpretrain.datasets.cifar, 'check_md5', lambda *_: True
    )
    return tmp_path, contents


def cifar_config(root, split, **kwargs):
    return dict(
        type='CIFAR100',
        data_root=str(root),
        split=split,
        download=False,
        pipeline=[],
        **kwargs,
    )


def test_registered():
    assert DATASETS.get('InMemoryImages') is InMemoryImages


@pytest.mark.parametrize('split', ['train', 'test'])
def test_cifar(cifar, split):
    root, contents = cifar
    images, labels = contents[split]
    dataset = DATASETS.build(
        dict(type='InMemoryImages', dataset=cifar_config(root, split))
    )
    batch = dataset.__getitems__(range(len(images)))
    # RGB, as they were put in
    assert np.array_equal(batch['inputs'].permute(0, 2, 3, 1).numpy(), images)
    assert batch['gt_label'].tolist() == labels
    assert dataset.metainfo['classes'][0] == 'apple'
    assert len(dataset.metainfo['classes']) == 100


def test_labels_can_be_left_out(cifar):
    root, contents = cifar
    dataset = InMemoryImages(cifar_config(root, 'train'), with_label=False)
    assert dataset.labels is None
    assert 'gt_label' not in dataset.__getitems__([0])
    assert np.array_equal(dataset.images, contents['train'][0])


def folder_config(root, *pipeline, **kwargs):
    return dict(
        type='CustomDataset',
        data_root=str(root),
        pipeline=[dict(type='LoadImageFromFile'), *pipeline],
        **kwargs,
    )


@pytest.fixture
def folder(tmp_path):
    """Two classes; the last image is larger."""
    images = make_images(4, side=8)
    for index, image in enumerate(images):
        target = tmp_path / 'ab'[index // 2]
        target.mkdir(exist_ok=True)
        picture = Image.fromarray(image)
        if index == 3:
            picture = picture.resize((12, 10))
        picture.save(target / f'{index}.png')
    return tmp_path, images


def test_pipeline_runs_once_an_image(folder):
    root, images = folder
    crop = dict(type='CenterCrop', crop_size=4)
    dataset = InMemoryImages(folder_config(root, crop))
    assert dataset.images.shape == (4, 4, 4, 3)
    # LoadImageFromFile gives BGR
    assert np.array_equal(dataset.images[0], images[0, 2:6, 2:6, ::-1])
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.metainfo['classes'] == ['a', 'b']


def test_images_of_different_sizes(folder):
    with pytest.raises(
        ValueError,
        match=r'CustomDataset has \[\(8, 8, 3\), \(10, 12, 3\)\]: resize',
    ):
        InMemoryImages(folder_config(folder[0]))


def test_sample_without_an_image(folder):
    with pytest.raises(KeyError, match='img'):
        InMemoryImages(folder_config(folder[0], dict(type='PackInputs')))
