"""Packing images as a program makes them."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import zipfile

import numpy as np
import pytest

from mmkd_plugin.datasets import PackedImages
from mmkd_plugin.datasets.packing import journal, pack_folder, pack_images

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
SOURCE = dict(seed=3, generator=dict(type='MosaicGenerator', shape=(1, 2)))


def pack(out, blocks=(IMAGES,), **options):
    options = dict(num_images=7, size=4, source=SOURCE) | options
    return pack_images(out, iter(blocks), **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_packed_file(tmp_path, capsys):
    out = tmp_path / 'x.npz'
    meta = pack(out, np.split(IMAGES, [2, 2, 6]))
    assert meta == dict(
        format='mmkd_plugin.packed_images',
        version=1,
        size=4,
        num_images=7,
        source=dict(
            seed=3, generator=dict(type='MosaicGenerator', shape=[1, 2])
        ),
        sha256=hashlib.sha256(IMAGES.tobytes()).hexdigest(),
    )
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ['images.npy', 'meta.npy']
    with np.load(out) as archive:
        assert np.array_equal(archive['images'], IMAGES)
        assert json.loads(str(archive['meta'])) == meta
    dataset = PackedImages(out)
    assert np.array_equal(dataset.images, IMAGES)
    assert 'classes' not in dataset.metainfo
    assert names(tmp_path) == ['x.npz']
    assert 'x.npz: 7 images of 4x4 pixels' in capsys.readouterr().out


def test_bytes_do_not_depend_on_the_blocks(tmp_path):
    strided = np.repeat(IMAGES, 2, axis=2)[:, :, ::2]
    for name, blocks in dict(
        all=[IMAGES], single=np.split(IMAGES, 7), strided=[strided]
    ).items():
        pack(tmp_path / name, blocks)
    expected = (tmp_path / 'all').read_bytes()
    assert (tmp_path / 'single').read_bytes() == expected
    assert (tmp_path / 'strided').read_bytes() == expected
    pack(tmp_path / 'other', source=dict(seed=4))
    assert (tmp_path / 'other').read_bytes() != expected
    # The fingerprint names the images, not what made them.
    first, other = (PackedImages(tmp_path / n) for n in ('all', 'other'))
    assert first.fingerprint() == other.fingerprint()


def test_blocks_are_written_as_they_come(tmp_path):
    """They are in the file before the next one is asked for."""
    sizes = []

    def blocks():
        for _ in range(3):
            path = tmp_path / 'x.npz.part.npz'
            sizes.append(path.stat().st_size)
            yield np.zeros((2, 128, 128, 3), np.uint8)

    pack(tmp_path / 'x.npz', blocks(), num_images=6, size=128)
    block = 2 * 128 * 128 * 3
    assert sizes[0] < block <= sizes[1] < 2 * block <= sizes[2]


@pytest.mark.parametrize(
    ('options', 'error', 'match'),
    [
        (dict(num_images=0), ValueError, r'num_images must be .*, but got 0'),
        (dict(num_images=2.0), ValueError, 'an integer, but got 2.0'),
        (dict(size=0), ValueError, 'size must be .*, but got 0'),
        (dict(source='x'), ValueError, "source must be a dict, but got 'x'"),
        (dict(source=dict(a={1})), ValueError, 'JSON: .*set is not'),
        (dict(out='none/x.npz'), FileNotFoundError, '`mkdir -p .*none`'),
        (dict(out='folder'), IsADirectoryError, 'folder is a folder'),
        (dict(out='file'), FileExistsError, 'file exists. Use --force'),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    tmp_path, options, error, match
):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('precious')

    def blocks():
        pytest.fail('an image was asked for')
        yield

    options = dict(options)
    out = tmp_path / options.pop('out', 'x.npz')
    with pytest.raises(error, match=match):
        pack(out, blocks(), **options)
    assert names(tmp_path) == ['file', 'folder']
    assert (tmp_path / 'file').read_text() == 'precious'


def test_full_disk_is_told_before_starting(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(
        OSError, match=r'0\.5 MB left, but packing 7 images takes 1\.0 MB$'
    ):
        pack(tmp_path / 'x.npz')
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ('blocks', 'match'),
    [
        ([IMAGES[:3], IMAGES[:3]], 'but only 6 came'),
        ([], 'but only 0 came'),
        ([IMAGES, IMAGES[:1]], '7 images were .* but 8 or more came'),
        ([IMAGES.astype(float)], r'got float64 of the shape \(7, 4, 4, 3\)'),
        ([IMAGES[..., 0]], r'got uint8 of the shape \(7, 4, 4\)'),
        ([IMAGES[:, :2]], r'\(n, 4, 4, 3\), but got .*\(7, 2, 4, 3\)'),
        ([[1]], 'but got list'),
    ],
)
def test_wrong_blocks_leave_nothing_behind(tmp_path, blocks, match):
    with pytest.raises(ValueError, match=match):
        pack(tmp_path / 'x.npz', blocks)
    assert names(tmp_path) == []


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_file(tmp_path, error):
    out = tmp_path / 'x.npz'
    out.write_text('old')

    def blocks():
        yield IMAGES[:3]
        raise error('stop')

    with pytest.raises(error, match='stop'):
        pack(out, blocks(), force=True)
    assert out.read_text() == 'old'
    assert names(tmp_path) == ['x.npz']
    pack(out, force=True)
    assert np.array_equal(PackedImages(out).images, IMAGES)


@pytest.mark.skipif(
    'fork' not in multiprocessing.get_all_start_methods(),
    reason='this platform does not fork processes',
)
def test_killed_half_way(tmp_path):
    out = tmp_path / 'x.npz'

    def blocks():
        yield IMAGES[:3]
        os.kill(os.getpid(), signal.SIGKILL)

    context = multiprocessing.get_context('fork')
    child = context.Process(target=pack, args=(out, blocks()))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert names(tmp_path) == ['x.npz.part.json', 'x.npz.part.npz']
    pack(out)
    assert np.array_equal(PackedImages(out).images, IMAGES)
    assert names(tmp_path) == ['x.npz']


def test_second_packer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, 'LOCK_PATIENCE', 0.05)
    out = tmp_path / 'x.npz'

    def blocks():
        with pytest.raises(BlockingIOError, match=f'packing into {out}'):
            pack(out)
        yield IMAGES

    pack(out, blocks())
    assert np.array_equal(PackedImages(out).images, IMAGES)


def test_interrupted_packing_of_a_folder_is_left_alone(tmp_path, monkeypatch):
    from PIL import Image

    src, out = tmp_path / 'src', tmp_path / 'x.npz'
    src.mkdir()
    Image.fromarray(IMAGES[0]).save(src / '1.png')
    append = journal.Journal.append

    def append_and_stop(record, line):
        append(record, line)
        if 'assembled' in line:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, 'append', append_and_stop)
        with pytest.raises(KeyboardInterrupt):
            pack_folder(src, out, size=4, workers=1)
    before = names(tmp_path)
    for force in (False, True):
        with pytest.raises(FileExistsError, match=r'part\.json says that'):
            pack(out, force=force)
    assert names(tmp_path) == before
    pack_folder(src, out, size=4, workers=1)
    assert np.array_equal(PackedImages(out).images, IMAGES[:1])
