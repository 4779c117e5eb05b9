"""Reading packed images."""

import copy
import multiprocessing
import pickle
import zipfile

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mmkd_plugin.datasets import PackedImages, array_collate
from mmkd_plugin.datasets.packing import pack_folder


def write_tree(root, seed=0):
    """Write six 8x8 images in three classes; return them in path order."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        folder = root / 'abc'[i // 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f'{i}.png')
    return images


@pytest.fixture
def packed(tmp_path):
    images = write_tree(tmp_path / 'src')
    out = str(tmp_path / 'packed.npz')
    pack_folder(tmp_path / 'src', out, size=8, labels=True, workers=1)
    return out, images


def rewrite(path, **changes):
    """Save the members again with numpy, as a user would."""
    with np.load(path) as archive:
        members = dict(archive)
    members.update(changes)
    np.savez(path, **{k: v for k, v in members.items() if v is not None})


def test_images_and_labels(packed):
    out, images = packed
    dataset = DATASETS.build(
        dict(type='PackedImages', data_file=out, with_label=True)
    )
    assert isinstance(dataset.images, np.memmap)
    assert np.array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.metainfo == dict(classes=['a', 'b', 'c'])
    assert dataset[3]['data_samples'].gt_label.item() == 1
    batch = dataset.__getitems__([5, 0])
    assert batch['gt_label'].tolist() == [2, 0]
    expected = images[[5, 0]].transpose(0, 3, 1, 2)
    assert batch['inputs'].tolist() == expected.tolist()


def test_labels_are_left_out_unless_asked_for(packed):
    dataset = PackedImages(packed[0])
    assert dataset.labels is None
    # The classes of an unlabeled heap are not those of the model.
    assert dataset.metainfo == {}
    assert 'gt_label' not in dataset.__getitems__([0])


def test_pixels_cannot_be_changed(packed):
    dataset = PackedImages(packed[0])
    with pytest.raises(ValueError, match='read-only'):
        dataset.images[0] = 0
    dataset.__getitems__([0])['inputs'].zero_()
    assert np.array_equal(dataset.images, packed[1])


def test_file_that_numpy_saved_again(packed):
    out, images = packed
    rewrite(out)
    dataset = PackedImages(out, with_label=True)
    assert np.array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_copies_open_the_file_again(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = PackedImages('packed.npz', with_label=True)
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    monkeypatch.chdir('/')
    for other in (pickle.loads(data), copy.deepcopy(dataset)):
        assert isinstance(other.images, np.memmap)
        assert np.array_equal(other.images, packed[1])
        assert other.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert other.metainfo == dict(classes=['a', 'b', 'c'])
        assert other.fingerprint() == dataset.fingerprint()


def test_copy_of_a_replaced_file_is_refused(packed, tmp_path):
    out, images = packed
    dataset = PackedImages(out)
    data = pickle.dumps(dataset)
    write_tree(tmp_path / 'other', seed=1)
    pack_folder(tmp_path / 'other', out, size=8, workers=1, force=True)
    with pytest.raises(RuntimeError, match='replaced'):
        pickle.loads(data)
    assert np.array_equal(dataset.images, images)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_data_loader_workers(packed, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f'this platform does not {method} processes')
    out, images = packed
    loader = DataLoader(
        PackedImages(out, with_label=True),
        batch_size=4,
        num_workers=1,
        multiprocessing_context=method,
        collate_fn=array_collate,
    )
    batches = list(loader)
    assert [b['sample_idx'].tolist() for b in batches] == [
        [0, 1, 2, 3],
        [4, 5],
    ]
    assert batches[1]['gt_label'].tolist() == [2, 2]
    expected = images[4:].transpose(0, 3, 1, 2)
    assert batches[1]['inputs'].tolist() == expected.tolist()


def test_fingerprint(packed, tmp_path):
    out, _ = packed
    unlabeled = PackedImages(out).fingerprint()
    labelled = PackedImages(out, with_label=True).fingerprint()
    assert unlabeled != labelled
    # Neither place nor labels of the file matter where they are not used.
    other = str(tmp_path / 'other.npz')
    pack_folder(tmp_path / 'src', other, size=8, workers=1)
    assert PackedImages(other).fingerprint() == unlabeled
    write_tree(tmp_path / 'src', seed=1)
    pack_folder(tmp_path / 'src', other, size=8, workers=1, force=True)
    assert PackedImages(other).fingerprint() != unlabeled


def test_fingerprint_sees_pixels_changed_with_numpy(packed):
    out, images = packed
    before = PackedImages(out).fingerprint()
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    rewrite(out, images=changed)
    assert PackedImages(out).fingerprint() != before


def test_missing_file_names_the_command(tmp_path):
    path = tmp_path / 'none.npz'
    command = f'tools/pack_dataset.py SRC --size 32 --out {path}'
    with pytest.raises(FileNotFoundError, match=command + '`'):
        PackedImages(path)
    with pytest.raises(FileNotFoundError, match=command + ' --labels`'):
        PackedImages(path, with_label=True)


def test_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'is a folder\. Pack it first'):
        PackedImages(tmp_path)


def test_file_without_labels(packed, tmp_path):
    out = str(tmp_path / 'unlabeled.npz')
    pack_folder(tmp_path / 'src', out, size=8, workers=1)
    assert len(PackedImages(out)) == 6
    with pytest.raises(ValueError, match=r'no labels.*--labels'):
        PackedImages(out, with_label=True)


def test_truncated_file_of_any_length(packed):
    out, _ = packed
    with open(out, 'rb') as file:
        data = file.read()
    for length in range(0, len(data), 7):
        with open(out, 'wb') as file:
            file.write(data[:length])
        with pytest.raises(ValueError, match='complete file made by'):
            PackedImages(out, with_label=True)


def test_damaged_directory_never_gives_another_error(packed):
    """Flip each byte outside of the pixels: an error, or the same pixels."""
    out, images = packed
    with open(out, 'rb') as file:
        data = file.read()
    pixels = data.index(images.tobytes())
    outside = [
        i for i in range(len(data)) if not pixels <= i < pixels + images.nbytes
    ]
    for position in outside:
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        with open(out, 'wb') as file:
            file.write(damaged)
        try:
            dataset = PackedImages(out)
        except ValueError as exc:
            assert out in str(exc)
        else:
            assert dataset.images.tobytes() == images.tobytes()


def test_foreign_files(packed, tmp_path):
    out, images = packed
    path = tmp_path / 'foreign.npz'
    np.savez(path, images=images)
    with pytest.raises(ValueError, match=r'no item named .?meta.npy'):
        PackedImages(path)
    np.savez(path, images=images, meta=np.array('{"format": "other"}'))
    with pytest.raises(ValueError, match='does not say'):
        PackedImages(path)
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='not a zip file'):
        PackedImages(path)
    with np.load(out) as archive:
        np.savez_compressed(path, **archive)
    with pytest.raises(ValueError, match='is compressed'):
        PackedImages(path)


@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        (dict(images=np.zeros((0, 8, 8, 3), np.uint8)), 'holds no image'),
        (dict(images=np.zeros((6, 8, 8, 3))), 'float64'),
        (dict(images=np.zeros((6, 8), np.uint8)), r'\(6, 8\)'),
        (dict(labels=np.zeros(5, np.int64)), 'do not fit 6 images'),
        (dict(labels=np.full(6, 3)), '3 to 3 do not fit 3 classes'),
        (dict(labels=np.full(6, -1)), '-1 to -1 do not fit 3 classes'),
        (dict(classes=None), 'classes.npy'),
    ],
)
def test_members_that_do_not_fit(packed, changes, match):
    rewrite(packed[0], **changes)
    with pytest.raises(ValueError, match=match):
        PackedImages(packed[0], with_label=True)


def test_newer_format_is_refused(packed):
    with np.load(packed[0]) as archive:
        meta = str(archive['meta'])
    rewrite(
        packed[0],
        meta=np.array(meta.replace('"version": 1', '"version": 2')),
    )
    with pytest.raises(ValueError, match=r'version 2 .* reads version 1'):
        PackedImages(packed[0])


def test_neither_opening_nor_fingerprint_reads_the_pixels(packed):
    out, images = packed
    before = PackedImages(out).fingerprint()
    with open(out, 'r+b') as file:
        position = file.read().index(images.tobytes())
        file.seek(position)
        file.write(bytes([images[0, 0, 0, 0] ^ 1]))
    with np.load(out) as archive, pytest.raises(zipfile.BadZipFile):
        archive['images']
    assert PackedImages(out).fingerprint() == before
