"""SVHN, read from a small file in its layout."""

import hashlib
import sys

import numpy as np
import pytest
from mmengine.registry import DATASETS
from torchvision.datasets import SVHN

from mmkd_plugin.datasets import SVHNImages

savemat = pytest.importorskip('scipy.io').savemat


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """A folder with 5 + 3 images, and these, ``(N, 32, 32, 3)``."""
    contents = {}
    for seed, (split, num) in enumerate((('train', 5), ('test', 3))):
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (num, 32, 32, 3), dtype=np.uint8)
        url, name, _ = SVHN.split_list[split]
        # The original has the images last, and calls the digit 0 a 10.
        labels = np.array([[10], [1], [9], [2], [10]][:num], dtype=np.uint8)
        path = tmp_path / name
        savemat(path, dict(X=images.transpose(1, 2, 3, 0), y=labels))
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(SVHN.split_list, split, [url, name, md5])
        contents[split] = images
    return str(tmp_path), contents


@pytest.mark.parametrize('split', ['train', 'test'])
def test_images(svhn, split):
    root, contents = svhn
    dataset = DATASETS.build(
        dict(type='SVHNImages', data_root=root, split=split)
    )
    assert np.array_equal(dataset.images, contents[split])
    assert dataset.images.dtype == np.uint8
    assert dataset.images.flags['C_CONTIGUOUS']
    assert dataset.labels is None
    assert 'gt_label' not in dataset.__getitems__([0, 2])


def test_labels(svhn):
    root, contents = svhn
    dataset = SVHNImages(root, with_label=True)
    assert dataset.labels.tolist() == [0, 1, 9, 2, 0]
    assert dataset.metainfo['classes'] == [*'0123456789']
    batch = dataset.__getitems__([4, 2])
    assert batch['gt_label'].tolist() == [0, 9]
    assert batch['inputs'].shape == (2, 3, 32, 32)
    assert np.array_equal(
        batch['inputs'].numpy(),
        contents['train'][[4, 2]].transpose(0, 3, 1, 2),
    )


def test_missing_file_and_its_command(tmp_path):
    root = str(tmp_path / 'svhn')
    with pytest.raises(FileNotFoundError) as caught:
        SVHNImages(root, 'test')
    assert str(caught.value) == (
        f'there is no {root}/test_32x32.mat\n'
        f'    make it by: python -c "from torchvision.datasets import SVHN; '
        f"SVHN({root!r}, 'test', download=True)\""
    )
    assert not (tmp_path / 'svhn').exists()


def test_file_cut_off(svhn, tmp_path):
    path = tmp_path / 'train_32x32.mat'
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match='is not the original') as caught:
        SVHNImages(str(tmp_path))
    assert str(path) in str(caught.value)
    assert "'train', download=True)" in str(caught.value)


def test_without_scipy(svhn, monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy.io', None)
    with pytest.raises(ImportError, match='pip install scipy'):
        SVHNImages(svhn[0])


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(split='val'), "split must be one of .*'extra'.*got 'val'"),
        (dict(with_label=1), 'with_label must be True or False, but got 1'),
    ],
)
def test_wrong_options(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        SVHNImages(str(tmp_path), **options)
