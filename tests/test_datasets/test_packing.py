"""Packing folder trees of images."""

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from functools import partial

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image, ImageOps

from mmkd_plugin.datasets import PackedImages
from mmkd_plugin.datasets.packing import (
    decoding,
    folder,
    journal,
    list_images,
    load_image,
    pack_folder,
    pixel_file,
    workers,
)

needs_fork = pytest.mark.skipif(
    'fork' not in multiprocessing.get_all_start_methods(),
    reason='this platform does not fork processes',
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels=None, **kwargs):
    """Save an image, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(4, 4, 3) if pixels is None else pixels
    image = pixels if isinstance(pixels, Image.Image) else None
    (image or Image.fromarray(pixels)).save(path, **kwargs)
    return path


def write_tree(root, num=11):
    """Write a tree with good and bad images; return the bad names."""
    for i in range(num):
        save(root / 'abc'[i % 3] / f'{i:02d}.png', noise(6, 9, 3, seed=i))
    save(root / 'b' / 'grey.png', noise(12, 12))
    (root / 'a' / 'text.jpg').write_text('not an image')
    (root / 'c' / 'zz.png').write_bytes(b'')
    return ['a/text.jpg', 'c/zz.png']


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pixel_file, 'CHUNK_IMAGES', 2)
    # On a busy machine, workers take their time to notice a killed packer.
    monkeypatch.setattr(journal, 'LOCK_PATIENCE', 30)


def read_report(path):
    lines = path.read_text().splitlines()
    return {r['path']: r['reason'] for r in map(json.loads, lines)}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# --- one image ---------------------------------------------------------------


def test_shrinking_averages(tmp_path):
    pixels = noise(8, 12, 3)
    path = save(tmp_path / 'x.png', pixels)
    result = load_image(path, 2).astype(float)
    expected = pixels.reshape(2, 4, 2, 6, 3).mean(axis=(1, 3))
    assert result.shape == (2, 2, 3)
    assert np.abs(result - expected).max() <= 1


def test_enlarging_interpolates(tmp_path):
    path = save(tmp_path / 'x.png', noise(5, 5, 3))
    expected = Image.open(path).resize((7, 7), Image.Resampling.BICUBIC)
    assert np.array_equal(load_image(path, 7), np.asarray(expected))


def test_same_size_keeps_the_pixels(tmp_path):
    pixels = noise(7, 7, 3)
    path = save(tmp_path / 'x.png', pixels)
    for fit in ('stretch', 'crop'):
        assert np.array_equal(load_image(path, 7, fit), pixels)


@pytest.mark.parametrize('turned', [False, True])
def test_fit(tmp_path, turned):
    pixels = np.repeat([[[10] * 3, [100] * 3, [200] * 3]], 8, axis=0)
    pixels = np.repeat(pixels, 8, axis=1).astype(np.uint8)
    order = (1, 0, 2) if turned else (0, 1, 2)
    path = save(tmp_path / 'x.png', pixels.transpose(order).copy())
    assert np.all(load_image(path, 4, 'crop') == 100)
    whole = load_image(path, 3, 'stretch').transpose(order)
    assert whole[0, :, 0].tolist() == [10, 100, 200]


def test_crop_is_resize_and_centre_crop(tmp_path):
    path = save(tmp_path / 'x.png', noise(8, 16, 3))
    resized = Image.open(path).resize((8, 4), Image.Resampling.BOX)
    expected = np.asarray(resized)[:, 2:6]
    assert np.array_equal(load_image(path, 4, 'crop'), expected)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('fit', ['stretch', 'crop'])
def test_exif_orientation(tmp_path, suffix, orientation, fit):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16], pixels[8:, :16], pixels[:8, 16:] = 255, 160, 80
    exif = Image.Exif()
    exif[decoding.EXIF_ORIENTATION] = orientation
    path = save(tmp_path / f'x.{suffix}', pixels, exif=exif)
    image = Image.fromarray(pixels)
    image.getexif()[decoding.EXIF_ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(image)
    expected = load_image(
        save(tmp_path / 'upright.png', upright), 4, fit
    ).astype(int)
    assert np.abs(load_image(path, 4, fit) - expected).max() <= 8
    if orientation != 1:
        flat = load_image(save(tmp_path / 'flat.png', pixels), 4, fit)
        assert np.abs(flat.astype(int) - expected).max() > 50


@pytest.mark.parametrize(
    'block',
    [
        b'Exif\0\0broken block',
        b'Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01',
        # an orientation that is a letter
        b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01a'
        b'\0\0\0\0\0\0\0',
    ],
)
def test_broken_exif_does_not_cost_the_pixels(tmp_path, block):
    pixels = np.full((8, 8, 3), 77, np.uint8)
    path = save(tmp_path / 'x.jpg', pixels, exif=block)
    assert np.all(load_image(path, 4) == 77)


def test_exif_that_pillow_fails_on(tmp_path, monkeypatch):
    path = save(tmp_path / 'x.jpg', np.full((8, 8, 3), 77, np.uint8))

    def fail(image):
        raise SyntaxError('not a TIFF file')

    monkeypatch.setattr(Image.Image, 'getexif', fail)
    assert np.all(load_image(path, 4) == 77)


def transparent_palette():
    image = Image.new('P', (4, 4), 0)
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.paste(1, (0, 0, 2, 4))
    image.info['transparency'] = 1
    return image


def cmyk():
    return Image.new('CMYK', (4, 4), (0, 255, 255, 0))


@pytest.mark.parametrize(
    ('name', 'image', 'expected'),
    [
        ('L.png', np.full((4, 4), 9, np.uint8), (9, 9, 9)),
        ('1.png', Image.new('1', (4, 4), 1), (255, 255, 255)),
        ('P.png', Image.new('RGB', (4, 4), (9, 8, 7)).quantize(), (9, 8, 7)),
        ('P.gif', Image.new('RGB', (4, 4), (9, 8, 7)).quantize(), (9, 8, 7)),
        ('CMYK.tif', cmyk(), (255, 0, 0)),
        ('CMYK.jpg', cmyk(), (255, 0, 0)),
        ('LA.png', Image.new('LA', (4, 4), (200, 51)), (40, 40, 40)),
        ('A.png', Image.new('RGBA', (4, 4), (200, 100, 50, 51)), (40, 20, 10)),
        ('A.webp', Image.new('RGBA', (4, 4), (200, 100, 50, 0)), (0, 0, 0)),
        ('I16.png', np.full((4, 4), 0x80FF, np.uint16), (128, 128, 128)),
        ('I16.tif', np.full((4, 4), 0x80FF, np.uint16), (128, 128, 128)),
        ('I.pgm', np.full((4, 4), 0x80FF, np.int32), (128, 128, 128)),
        ('I.tif', np.full((4, 4), 0x80FF, np.int32), (128, 128, 128)),
        ('x.bmp', np.full((4, 4, 3), 5, np.uint8), (5, 5, 5)),
        ('x.ppm', np.full((4, 4, 3), 5, np.uint8), (5, 5, 5)),
    ],
)
def test_modes(tmp_path, name, image, expected):
    options = dict(exact=True) if name.endswith('webp') else {}
    path = save(tmp_path / name, image, **options)
    assert np.abs(load_image(path, 2) - np.array(expected)).max() <= 1


def test_transparent_parts_are_black(tmp_path):
    path = save(tmp_path / 'x.png', transparent_palette(), transparency=1)
    result = load_image(path, 4)
    assert np.all(result[:, :2] == 0)
    assert np.all(result[:, 2:] == (200, 100, 50))
    grey = np.full((4, 4), 60, np.uint8)
    grey[:, :2] = 50
    path = save(tmp_path / 'y.png', grey, transparency=50)
    assert load_image(path, 4)[0, :, 0].tolist() == [0, 0, 60, 60]


def test_pixels_without_a_range_are_refused(tmp_path):
    path = save(tmp_path / 'f.tif', np.ones((4, 4), np.float32))
    with pytest.raises(ValueError, match='floating-point'):
        load_image(path, 2)
    path = save(tmp_path / 'i.tif', np.full((4, 4), 1 << 20, np.int32))
    with pytest.raises(ValueError, match='16 bits'):
        load_image(path, 2)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (4, 4), (c, 0, 0)) for c in (10, 20)]
    path = tmp_path / 'x.gif'
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.all(load_image(path, 2) == (10, 0, 0))


def test_large_jpeg_is_decoded_small(tmp_path, monkeypatch):
    smooth = Image.fromarray(noise(8, 8, 3)).resize((520, 400))
    path = save(tmp_path / 'x.jpg', smooth, quality=95)
    sizes = []
    to_rgb = decoding._to_rgb
    monkeypatch.setattr(
        decoding, '_to_rgb', lambda x: sizes.append(x.size) or to_rgb(x)
    )
    result = load_image(path, 32)
    assert sizes == [(130, 100)]
    expected = Image.open(path).resize((32, 32), Image.Resampling.BOX)
    assert np.abs(result - np.asarray(expected, dtype=float)).mean() < 2


# --- the listing -------------------------------------------------------------


def test_listing(tmp_path):
    src, outside = tmp_path / 'src', tmp_path / 'outside'
    for name in ('b/2.JPG', 'b/10.jpeg', 'a/x/y/1.Png', 'top.webp'):
        save(src / name, format='PNG')
    save(src / 'b' / 'folder.png' / 'inner.bmp')
    save(src / '.hidden' / '1.png')
    save(src / 'a' / '.hidden.png')
    save(outside / '1.png')
    (src / 'a' / 'notes.txt').write_text('')
    (src / 'empty').mkdir()
    (src / 'a' / 'inside.png').symlink_to(src / 'b' / '2.JPG')
    (src / 'a' / 'relative.png').symlink_to('../b/2.JPG')
    (src / 'a' / 'outside.png').symlink_to(outside / '1.png')
    (src / 'a' / 'nowhere.png').symlink_to(src / 'none.png')
    (src / 'a' / 'loop.png').symlink_to('loop.png')
    (src / 'a' / 'up').symlink_to(src)
    (src / 'b' / 'out').symlink_to(outside)
    os.mkfifo(src / 'a' / 'pipe.png')
    listing = list_images(src)
    assert listing.paths == [
        'a/inside.png',
        'a/relative.png',
        'a/x/y/1.Png',
        'b/10.jpeg',
        'b/2.JPG',
        'b/folder.png/inner.bmp',
        'top.webp',
    ]
    assert listing.classes == ['a', 'b', 'empty']
    assert listing.skipped == {
        'a/loop.png': 'link that leads nowhere',
        'a/nowhere.png': 'link that leads nowhere',
        'a/outside.png': 'link that leads out of the folder',
        'a/pipe.png': 'not a regular file',
        'a/up': 'link to a folder, not followed',
        'b/out': 'link to a folder, not followed',
    }


def test_link_to_a_sibling_with_a_common_prefix_leads_out(tmp_path):
    save(tmp_path / 'src-old' / '1.png')
    save(tmp_path / 'src' / '1.png')
    (tmp_path / 'src' / '2.png').symlink_to(tmp_path / 'src-old' / '1.png')
    assert list(list_images(tmp_path / 'src').skipped) == ['2.png']


def test_source_may_be_a_link_itself(tmp_path):
    save(tmp_path / 'src' / '1.png')
    (tmp_path / 'src' / '2.png').symlink_to('1.png')
    (tmp_path / 'link').symlink_to(tmp_path / 'src')
    assert list_images(tmp_path / 'link').paths == ['1.png', '2.png']


def test_unreadable_folder_is_listed(tmp_path, monkeypatch):
    save(tmp_path / 'a' / '1.png')
    save(tmp_path / 'b' / '1.png')
    scandir = os.scandir

    def refuse(path):
        if path.endswith('b'):
            raise PermissionError(13, 'Permission denied')
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    listing = list_images(tmp_path)
    assert listing.paths == ['a/1.png']
    assert listing.skipped == {'b': 'unreadable folder: Permission denied'}


def test_digest_of_the_listing(tmp_path):
    path = save(tmp_path / 'a' / '1.png')
    digests = [list_images(tmp_path).digest]
    os.utime(path, ns=(0, 0))
    digests.append(list_images(tmp_path).digest)
    path.write_bytes(path.read_bytes() + b'x')
    os.utime(path, ns=(0, 0))
    digests.append(list_images(tmp_path).digest)
    path.rename(tmp_path / 'a' / '2.png')
    digests.append(list_images(tmp_path).digest)
    (tmp_path / 'b').mkdir()
    digests.append(list_images(tmp_path).digest)
    (tmp_path / 'b' / 'link.png').symlink_to('/')
    digests.append(list_images(tmp_path).digest)
    assert len(set(digests)) == 6
    assert list_images(tmp_path).digest == digests[-1]


# --- the packed file ---------------------------------------------------------


def test_packed_file(tmp_path, small_chunks, capsys):
    src, out = tmp_path / 'src', tmp_path / 'out.npz'
    bad = write_tree(src)
    (src / 'b' / 'away').symlink_to(tmp_path)
    meta = pack_folder(src, out, size=3, labels=True, workers=2)
    good = [p for p in list_images(src).paths if p not in bad]
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert {i.compress_type for i in archive.infolist()} == {0}
    with np.load(out) as archive:
        assert sorted(archive) == ['classes', 'images', 'labels', 'meta']
        images = archive['images']
        assert archive['labels'].dtype == np.int64
        assert archive['labels'].tolist() == ['abc'.index(p[0]) for p in good]
        assert archive['classes'].tolist() == ['a', 'b', 'c']
        assert json.loads(str(archive['meta'])) == meta
    assert images.dtype == np.uint8
    expected = np.stack([load_image(src / path, 3) for path in good])
    assert np.array_equal(images, expected)
    assert meta == dict(
        format='mmkd_plugin.packed_images',
        version=1,
        size=3,
        fit='stretch',
        num_images=12,
        num_bad=3,
        sha256=hashlib.sha256(expected.tobytes()).hexdigest(),
    )
    assert read_report(tmp_path / 'out.npz.report.txt') == {
        'a/text.jpg': 'not an image that Pillow can read',
        'b/away': 'link to a folder, not followed',
        'c/zz.png': 'empty file',
    }
    assert names(tmp_path) == ['out.npz', 'out.npz.report.txt', 'src']
    output = capsys.readouterr().out
    assert '14/14' in output
    assert 'ETA' in output
    assert f'3 skipped, listed in {out}.report.txt' in output


def test_bytes_do_not_depend_on_workers_or_place(tmp_path, small_chunks):
    src = tmp_path / 'src'
    write_tree(src)
    pack_folder(src, tmp_path / '1.npz', size=3, labels=True, workers=1)
    expected = (tmp_path / '1.npz').read_bytes()
    pack_folder(src, tmp_path / '3.npz', size=3, labels=True, workers=3)
    assert (tmp_path / '3.npz').read_bytes() == expected
    shutil.copytree(src, tmp_path / 'moved')
    pack_folder(tmp_path / 'moved', tmp_path / 'm.npz', size=3, labels=True)
    assert (tmp_path / 'm.npz').read_bytes() == expected


def test_chunk_of_large_images_is_short():
    chunks = pixel_file.PixelFile('', 1000, 224)
    assert chunks.chunk_images * 224 * 224 * 3 <= pixel_file.CHUNK_BYTES
    assert pixel_file.PixelFile('', 1000, 10000).chunk_images == 1


@pytest.mark.parametrize('fit', ['stretch', 'crop'])
def test_fit_is_passed_on(tmp_path, fit):
    path = save(tmp_path / 'src' / '1.png', noise(8, 24, 3))
    out = tmp_path / 'out.npz'
    pack_folder(tmp_path / 'src', out, size=4, fit=fit, workers=1)
    assert np.array_equal(
        PackedImages(out).images[0], load_image(path, 4, fit)
    )


def test_odd_names(tmp_path):
    src, out = tmp_path / 'src', tmp_path / 'out put\n.npz'
    odd = [
        'new\nline',
        'späce ü 猫',
        '"quote\'',
        'back\\slash',
        os.fsdecode(b'\xff'),
    ]
    for name in odd:
        save(src / name / f'{name}.png')
    (src / odd[0] / f'bad {odd[4]}\n.png').write_bytes(b'')
    pack_folder(src, out, size=2, labels=True, workers=2)
    dataset = PackedImages(out, with_label=True)
    assert dataset.metainfo['classes'] == sorted(odd)
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4]
    report = read_report(tmp_path / 'out put\n.npz.report.txt')
    assert report == {f'{odd[0]}/bad {odd[4]}\n.png': 'empty file'}


def test_every_kind_of_bad_image_is_listed(tmp_path, monkeypatch):
    src, out, report = tmp_path / 'src', tmp_path / 'o.npz', tmp_path / 'r'
    good = save(src / 'good.png', noise(20, 20, 3))
    (src / 'cut.png').write_bytes(good.read_bytes()[:-200])
    jpeg = save(src / 'whole.jpg', noise(20, 20, 3)).read_bytes()
    (src / 'cut.jpg').write_bytes(jpeg[: len(jpeg) // 2])
    (src / 'empty.gif').write_bytes(b'')
    (src / 'text.bmp').write_text('text')
    save(src / 'bomb.png', noise(40, 40, 3))
    save(src / 'large.png', noise(30, 30, 3))
    save(src / 'float.tif', np.ones((4, 4), np.float32))
    # A bomb is an error for Pillow above twice the limit, and else a warning.
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 600)
    meta = pack_folder(src, out, size=4, workers=1, report=report)
    reasons = read_report(report)
    assert meta['num_images'] == 2
    assert meta['num_bad'] == 7
    assert list(reasons) == sorted(reasons)
    bomb = 'too many pixels, more than 600'
    assert reasons.pop('bomb.png') == reasons.pop('large.png') == bomb
    assert reasons.pop('empty.gif') == 'empty file'
    assert reasons.pop('text.bmp') == 'not an image that Pillow can read'
    assert 'floating-point' in reasons.pop('float.tif')
    assert 'truncated' in reasons.pop('cut.jpg').lower()
    assert list(reasons) == ['cut.png']
    assert not (tmp_path / 'o.npz.report.txt').exists()


def test_report_of_an_earlier_result_is_removed(tmp_path):
    src, out = tmp_path / 'src', tmp_path / 'out.npz'
    save(src / '1.png')
    (src / '2.png').write_bytes(b'')
    pack_folder(src, out, size=2, workers=1)
    assert (tmp_path / 'out.npz.report.txt').exists()
    (src / '2.png').unlink()
    pack_folder(src, out, size=2, workers=1, force=True)
    assert names(tmp_path) == ['out.npz', 'src']


def test_class_folder_without_images_stays_a_class(tmp_path, capsys):
    src, out = tmp_path / 'src', tmp_path / 'out.npz'
    save(src / 'a' / '1.png')
    (src / 'b').mkdir()
    (src / 'c').mkdir()
    (src / 'c' / '1.png').write_bytes(b'')
    save(src / 'd' / 'deep' / '1.png')
    pack_folder(src, out, size=2, labels=True, workers=1)
    dataset = PackedImages(out, with_label=True)
    assert dataset.metainfo['classes'] == ['a', 'b', 'c', 'd']
    assert dataset.labels.tolist() == [0, 3]
    assert "1 of 4 class folders hold no image, 'b'" in capsys.readouterr().out


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'error', 'match'),
    [
        (dict(size=0), ValueError, 'at least 1, but got 0'),
        (dict(fit='pad'), ValueError, "'stretch', 'crop'.*'pad'"),
        (dict(workers=0), ValueError, 'at least 1, but got 0'),
        (dict(src='none'), FileNotFoundError, 'none does not exist'),
        (dict(src='file'), NotADirectoryError, 'file is not a folder'),
        (dict(src='empty'), ValueError, r'holds no image.*\.jpeg'),
        (dict(src='all_bad'), ValueError, "2 images.*2 x empty.*'1.png'"),
        (dict(labels=True), ValueError, "1 images lie.*'stray.png'"),
        (dict(out='none/x'), FileNotFoundError, 'mkdir -p .*none'),
        (dict(out='file'), FileExistsError, '--force'),
        (dict(out='src', force=True), IsADirectoryError, 'src is a folder'),
        (dict(report='none/x'), FileNotFoundError, 'mkdir -p .*none'),
        (dict(report='out.npz'), ValueError, 'both output and report'),
    ],
)
def test_mistakes_leave_nothing_behind(tmp_path, options, error, match):
    save(tmp_path / 'src' / 'a' / '1.png')
    save(tmp_path / 'src' / 'stray.png')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'all_bad').mkdir()
    (tmp_path / 'all_bad' / '1.png').write_bytes(b'')
    (tmp_path / 'all_bad' / '2.png').write_bytes(b'')
    (tmp_path / 'file').write_text('precious')
    before = names(tmp_path)
    kwargs = dict(src='src', out='out.npz', size=2, workers=1)
    kwargs.update(options)
    for key in {'src', 'out', 'report'} & set(kwargs):
        kwargs[key] = tmp_path / kwargs[key]
    with pytest.raises(error, match=match):
        pack_folder(**kwargs)
    assert names(tmp_path) == before
    assert (tmp_path / 'file').read_text() == 'precious'


def test_all_that_is_missing_is_told_at_once(tmp_path):
    with pytest.raises(FileNotFoundError) as info:
        pack_folder(tmp_path / 'a', tmp_path / 'b' / 'out', size=2)
    assert f'{tmp_path / "a"} does not exist' in str(info.value)
    assert f'mkdir -p {tmp_path / "b"}' in str(info.value)


def test_full_disk_is_told_before_starting(tmp_path, monkeypatch):
    save(tmp_path / 'src' / '1.png')
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(OSError, match=r'0\.5 MB left.*takes 1\.1 MB'):
        pack_folder(tmp_path / 'src', tmp_path / 'out', size=32, workers=1)
    assert names(tmp_path) == ['src']


def test_force_replaces(tmp_path):
    src, out = tmp_path / 'src', tmp_path / 'out.npz'
    save(src / '1.png')
    out.write_text('old')
    pack_folder(src, out, size=2, workers=1, force=True)
    assert len(PackedImages(out)) == 1


def test_second_packer_is_refused(tmp_path, monkeypatch, small_chunks):
    monkeypatch.setattr(journal, 'LOCK_PATIENCE', 0.1)
    src, out = tmp_path / 'src', tmp_path / 'out.npz'
    write_tree(src)
    started, go_on = threading.Event(), threading.Event()
    load = workers.load_image

    def slow_load(*args):
        started.set()
        assert go_on.wait(30)
        return load(*args)

    monkeypatch.setattr(workers, 'load_image', slow_load)
    first = threading.Thread(
        target=pack_folder, args=(src, out), kwargs=dict(size=2, workers=1)
    )
    first.start()
    assert started.wait(30)
    for force in (False, True):
        with pytest.raises(BlockingIOError, match=f'packing into {out}'):
            pack_folder(src, out, size=2, workers=1, force=force)
    go_on.set()
    first.join()
    assert len(PackedImages(out)) == 12
    assert names(tmp_path) == ['out.npz', 'out.npz.report.txt', 'src']


def test_files_that_disappear_stop_the_packing(tmp_path, monkeypatch):
    src, out = tmp_path / 'src', tmp_path / 'out.npz'
    save(src / '1.png')
    save(src / '2.png')
    listed = folder.list_images

    def list_and_remove(path):
        listing = listed(path)
        (src / '2.png').unlink()
        return listing

    monkeypatch.setattr(folder, 'list_images', list_and_remove)
    with pytest.raises(OSError, match=r'2\.png disappeared'):
        pack_folder(src, out, size=2, workers=1)
    assert not out.exists()


@needs_fork
def test_dead_worker_is_an_error(tmp_path, monkeypatch, small_chunks):
    if multiprocessing.get_start_method() != 'fork':
        pytest.skip('the patch does not reach the workers')
    src, out = tmp_path / 'src', tmp_path / 'out.npz'
    write_tree(src)
    with monkeypatch.context() as patch:
        patch.setattr(workers, 'load_image', lambda *args: os._exit(9))
        with pytest.raises(RuntimeError, match='fewer --workers'):
            pack_folder(src, out, size=2, workers=2)
    assert pack_folder(src, out, size=2, workers=2)['num_images'] == 12


# --- interruptions -----------------------------------------------------------


def pack_in_child(kill, **kwargs):
    """Pack in a forked process.

    Args:
        kill (Callable): Called there first; may install what kills it.
        **kwargs: Arguments of ``pack_folder``.

    Returns:
        int: The exit code; negative for a signal.
    """

    def run():
        sys.stdout = io.StringIO()
        kill()
        pack_folder(**kwargs)

    child = multiprocessing.get_context('fork').Process(target=run)
    child.start()
    child.join()
    return child.exitcode


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(last, events=('open', 'os.', 'fcntl', 'shutil', 'mmap')):
    """Die before the file operation with the number ``last``."""
    count = 0

    def hook(event, args):
        nonlocal count
        if event.startswith(events):
            count += 1
            if count == last:
                die()

    sys.addaudithook(hook)


@pytest.fixture
def job(tmp_path, small_chunks):
    """Give arguments for packing, and the bytes that must come out."""
    src = tmp_path / 'src'
    write_tree(src)
    out, expected = tmp_path / 'out' / 'x.npz', tmp_path / 'expected.npz'
    out.parent.mkdir()
    kwargs = dict(src=src, size=3, labels=True, workers=1)
    pack_folder(out=expected, **kwargs)
    return dict(out=out, **kwargs), expected.read_bytes()


def check_result(kwargs, expected):
    out = kwargs['out']
    assert out.read_bytes() == expected
    assert names(out.parent) == ['x.npz', 'x.npz.report.txt']
    report = read_report(out.parent / 'x.npz.report.txt')
    assert list(report) == ['a/text.jpg', 'c/zz.png']


@needs_fork
@pytest.mark.parametrize('force', [False, True])
def test_killed_at_any_system_call(job, force):
    """Die at the n-th file operation, for all n, and start again."""
    kwargs, expected = job
    kwargs['force'] = force
    out = kwargs['out']
    for last in range(1, 1000):
        if force:
            out.write_bytes(b'old')
        code = pack_in_child(partial(die_at, last), **kwargs)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        # What stands there is never a part of a result.
        if out.exists():
            assert out.read_bytes() in (expected, b'old')
        complete = not (out.parent / 'x.npz.part.json').exists()
        if force or not (out.exists() and complete):
            pack_folder(**kwargs)
        check_result(kwargs, expected)
        for path in out.parent.iterdir():
            path.unlink()
    assert last > 30


@needs_fork
def test_killed_twice_at_the_end(job):
    """The result that --force replaces is never taken for the new one."""
    kwargs, expected = job
    kwargs['force'] = True
    out = kwargs['out']
    for last in range(1, 1000):
        out.write_bytes(b'old')
        # The first renaming is that of the report, the second of the result.
        kill = partial(die_at, 2, events=('os.rename',))
        assert pack_in_child(kill, **kwargs) == -signal.SIGKILL
        assert out.read_bytes() == b'old'
        code = pack_in_child(partial(die_at, last), **kwargs)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        pack_folder(**kwargs)
        check_result(kwargs, expected)
    assert last > 10


@needs_fork
@pytest.mark.parametrize('chunks', [0, 1, 3, 6])
@pytest.mark.parametrize('torn', [False, True])
def test_killed_after_some_chunks(job, capsys, chunks, torn):
    kwargs, expected = job

    def kill():
        append = journal.Journal.append

        def append_and_die(journal, record):
            if record.get('chunk') == chunks:
                if torn:
                    line = json.dumps(record).encode()
                    journal.file.write(line[: len(line) // 2])
                    journal.file.flush()
                die()
            append(journal, record)

        journal.Journal.append = append_and_die

    assert pack_in_child(kill, **kwargs) == -signal.SIGKILL
    assert not kwargs['out'].exists()
    pack_folder(**kwargs)
    check_result(kwargs, expected)
    assert f'Going on: {2 * chunks} of 14 images' in capsys.readouterr().out


@needs_fork
def test_killed_again_and_again(job):
    """Every run does one chunk, with a varying number of workers."""
    kwargs, expected = job

    def kill():
        append = journal.Journal.append

        def append_and_die(journal, record):
            append(journal, record)
            if 'chunk' in record or 'assembled' in record:
                die()

        journal.Journal.append = append_and_die

    # There are seven chunks. Then it dies when the result is complete, but
    # has not got its name yet.
    for run in range(10):
        kwargs['workers'] = 1 + run % 3
        assert pack_in_child(kill, **kwargs) == -signal.SIGKILL
        assert not kwargs['out'].exists()
    pack_folder(**kwargs)
    check_result(kwargs, expected)


def interrupt(kwargs, monkeypatch, chunks=3):
    """Stop packing, as Ctrl-C does, when some chunks are done."""
    append = journal.Journal.append

    def append_and_stop(journal, record):
        append(journal, record)
        if record.get('chunk') == chunks - 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, 'append', append_and_stop)
        with pytest.raises(KeyboardInterrupt):
            pack_folder(**kwargs)
    assert names(kwargs['out'].parent) == ['x.npz.part', 'x.npz.part.json']


def test_going_on_decodes_only_what_is_missing(job, monkeypatch, capsys):
    kwargs, expected = job
    interrupt(kwargs, monkeypatch)
    decoded = []
    load = workers.load_image
    monkeypatch.setattr(
        workers, 'load_image', lambda *a: decoded.append(a[0]) or load(*a)
    )
    pack_folder(**kwargs)
    check_result(kwargs, expected)
    assert len(decoded) == 8
    assert 'Going on: 6 of 14 images are done' in capsys.readouterr().out


def test_damaged_pixels_are_done_again(job, monkeypatch, capsys):
    kwargs, expected = job
    interrupt(kwargs, monkeypatch)
    with open(f'{kwargs["out"]}.part', 'r+b') as file:
        file.seek(2 * 27 + 5)
        byte = file.read(1)[0]
        file.seek(2 * 27 + 5)
        file.write(bytes([byte ^ 1]))
    pack_folder(**kwargs)
    check_result(kwargs, expected)
    assert 'Going on: 4 of 14 images are done' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda job: job.update(size=4), 'size (3, now 4) changed'),
        (
            lambda job: job.update(fit='crop'),
            "fit ('stretch', now 'crop') changed",
        ),
        (
            lambda job: job.update(labels=False),
            'labels (True, now False) changed',
        ),
        (lambda job: save(job['src'] / 'a' / 'n.png'), 'the files below'),
        (lambda job: os.utime(job['src'] / 'a' / '00.png'), 'the files below'),
        (lambda job: os.unlink(f'{job["out"]}.part'), 'removed or cut off'),
        (
            lambda job: os.truncate(f'{job["out"]}.part', 100),
            'removed or cut off',
        ),
    ],
)
def test_change_means_starting_anew(job, monkeypatch, capsys, change, match):
    kwargs, _ = job
    interrupt(kwargs, monkeypatch)
    change(kwargs)
    pack_folder(**kwargs)
    output = capsys.readouterr().out
    assert 'Starting anew: ' in output
    assert match in output
    assert names(kwargs['out'].parent) == ['x.npz', 'x.npz.report.txt']
    fresh = dict(kwargs, out=kwargs['out'].parent / 'fresh.npz')
    pack_folder(**fresh)
    assert fresh['out'].read_bytes() == kwargs['out'].read_bytes()


def test_mistake_keeps_the_work_of_an_interrupted_run(job, monkeypatch):
    kwargs, expected = job
    interrupt(kwargs, monkeypatch)
    save(kwargs['src'] / 'stray.png')
    with pytest.raises(ValueError, match=r'stray\.png'):
        pack_folder(**kwargs)
    (kwargs['src'] / 'stray.png').unlink()
    decoded = []
    load = workers.load_image
    monkeypatch.setattr(
        workers, 'load_image', lambda *a: decoded.append(a[0]) or load(*a)
    )
    pack_folder(**kwargs)
    check_result(kwargs, expected)
    assert len(decoded) == 8


def running(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@needs_fork
@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='no /proc')
def test_workers_end_with_a_killed_packer(job, monkeypatch):
    kwargs, expected = job
    kwargs['workers'] = 3
    pids = kwargs['src'].parent / 'pids'
    pids.mkdir()

    def slow_load(*args):
        (pids / str(os.getpid())).touch()
        time.sleep(60)

    def packer():
        sys.stdout = io.StringIO()
        workers.load_image = slow_load
        multiprocessing.set_start_method('fork', force=True)
        pack_folder(**kwargs)

    child = multiprocessing.get_context('fork').Process(target=packer)
    child.start()
    deadline = time.monotonic() + 30
    while len(names(pids)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    decoders = [int(name) for name in names(pids)]
    assert len(decoders) == 3
    child.kill()
    child.join()
    try:
        # Started at once, it waits for the lock that the workers still hold.
        kwargs['workers'] = 1
        pack_folder(**kwargs)
        check_result(kwargs, expected)
        deadline = time.monotonic() + 10
        while any(map(running, decoders)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(running, decoders))
    finally:
        for pid in filter(running, decoders):
            os.kill(pid, signal.SIGKILL)


# --- folders that are not packed ---------------------------------------------


def test_unpacked_folder_with_the_custom_dataset_of_mmpretrain(tmp_path):
    init_default_scope('mmpretrain')
    pixels = noise(8, 12, 3)
    for name in ('a/1.png', 'a/deep/2.PNG', '3.png'):
        save(tmp_path / name, pixels)
    (tmp_path / 'notes.txt').write_text('')
    dataset = DATASETS.build(
        dict(
            type='CustomDataset',
            data_root=str(tmp_path),
            with_label=False,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(4, 4), interpolation='area'),
                dict(type='PackInputs'),
            ],
        )
    )
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    assert [os.path.relpath(p, tmp_path) for p in paths] == (
        list_images(tmp_path).paths
    )
    item = dataset[0]
    assert 'gt_label' not in item['data_samples']
    # Its channels are BGR; apart from that it is what the packer makes.
    packed = load_image(tmp_path / '3.png', 4).transpose(2, 0, 1)[::-1]
    difference = item['inputs'].numpy().astype(int) - packed
    assert np.abs(difference).max() <= 1


def test_shorter_side_and_centre_crop_of_mmpretrain(tmp_path):
    init_default_scope('mmpretrain')
    path = save(tmp_path / '1.png', noise(8, 16, 3))
    dataset = DATASETS.build(
        dict(
            type='CustomDataset',
            data_root=str(tmp_path),
            with_label=False,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(
                    type='ResizeEdge',
                    scale=4,
                    edge='short',
                    interpolation='area',
                ),
                dict(type='CenterCrop', crop_size=4),
                dict(type='PackInputs'),
            ],
        )
    )
    packed = load_image(path, 4, 'crop').transpose(2, 0, 1)[::-1]
    difference = dataset[0]['inputs'].numpy().astype(int) - packed
    assert np.abs(difference).max() <= 1
