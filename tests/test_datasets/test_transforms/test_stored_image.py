"""Images that the loader turned by their EXIF orientation."""

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmkd_plugin.datasets import CropObject, LoadForeground
from mmkd_plugin.datasets.transforms import stored_image

IGNORING = 'color_ignore_orientation'
every_turn = pytest.mark.parametrize('tag', range(2, 9))


def photograph(path, tag=None, size=(60, 40), mode='RGB', level=None) -> str:
    """Save an image that differs from itself turned, or an even one."""
    shape = (size[1] // 20, size[0] // 20)
    # Levels that fall along rows and columns, but differently.
    levels = np.linspace(250, 10, shape[0] * shape[1]).reshape(shape)
    if level is not None:
        levels[:] = level
    levels = np.kron(levels, np.ones((20, 20))).astype(np.uint8)
    exif = Image.Exif()
    if tag is not None:
        exif[stored_image.ORIENTATION] = tag
    Image.fromarray(levels).convert(mode).save(path, exif=exif)
    return str(path)


def sample(path, color_type='color', backend='cv2') -> dict:
    load = LoadImageFromFile(color_type=color_type, imdecode_backend=backend)
    box = [0, 0, 20, 10]
    foreground = dict(boxes=[box])
    return load(dict(img_path=path, foreground=foreground, object_box=box))


@every_turn
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('size', [(60, 40), (60, 60)])
def test_turned_images_are_refused(tmp_path, tag, backend, size):
    path = photograph(tmp_path / 'a.jpg', tag, size)
    for transform in (LoadForeground(), CropObject()):
        with pytest.raises(
            ValueError,
            match=rf'{type(transform).__name__} .*a\.jpg was turned .* EXIF '
            rf"orientation {tag}: .*color_type='{IGNORING}'",
        ):
            transform(sample(path, backend=backend))
    results = LoadForeground()(sample(path, IGNORING, backend))
    assert np.argwhere(results['gt_seg_map'])[-1].tolist() == [9, 19]


@pytest.mark.parametrize('tag', [2, 6, 8])
@pytest.mark.parametrize('size', [(60, 40), (60, 60)])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA'])
@pytest.mark.parametrize('suffix', ['png', 'webp'])
def test_formats_and_loaders(tmp_path, tag, size, mode, suffix):
    path = photograph(tmp_path / f'a.{suffix}', tag, size, mode)
    for color_type in ('color', 'grayscale'):
        stored = sample(path, f'{color_type}_ignore_orientation')
        turned = sample(path, color_type)
        for as_loaded in (
            lambda img: img,
            lambda img: img.astype(np.float32),
            lambda img: img.reshape(*img.shape[:2], -1),
        ):
            LoadForeground()(dict(stored, img=as_loaded(stored['img'])))
            with pytest.raises(ValueError, match='was turned'):
                LoadForeground()(dict(turned, img=as_loaded(turned['img'])))
    # As it is: mmcv does not turn these.
    LoadForeground()(sample(path, 'unchanged'))


def test_large_photographs(tmp_path):
    """JPEG files are decoded in an eighth of their size."""
    path = photograph(tmp_path / 'a.jpg', 3, (800, 600))
    LoadForeground()(sample(path, IGNORING))
    with pytest.raises(ValueError, match='was turned'):
        LoadForeground()(sample(path))


def test_even_images(tmp_path):
    """Turned or not is the same, but for the shape."""
    for size in ((60, 40), (60, 60)):
        for tag in (3, 6):
            path = photograph(tmp_path / 'a.png', tag, size, level=99)
            LoadForeground()(sample(path, IGNORING))
    path = photograph(tmp_path / 'a.png', 6, (60, 40), level=99)
    with pytest.raises(ValueError, match='was turned'):
        LoadForeground()(sample(path))


@pytest.mark.parametrize('color_type', ['color', IGNORING])
@pytest.mark.parametrize('tag', [3, 6])
def test_nobody_knows_how_tiff_files_are_stored(tmp_path, color_type, tag):
    """All loaders give turned ones, whatever the option."""
    path = photograph(tmp_path / 'a.tif', tag)
    results = LoadForeground()(sample(path, color_type))
    turned = (40, 60) if tag == 3 else (60, 40)
    assert results['gt_seg_map'].shape == turned


@pytest.mark.parametrize('suffix', ['png', 'jpg'])
def test_without_an_orientation_nothing_is_decoded(
    tmp_path, monkeypatch, suffix
):
    def fail(*args):
        raise AssertionError('the image is decoded again')

    monkeypatch.setattr(stored_image, '_is_turned', fail)
    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', fail)
    for tag in (None, 0, 1, 9):
        path = photograph(tmp_path / f'a.{suffix}', tag)
        assert LoadForeground()(sample(path))['gt_seg_map'].sum() == 200


def test_files_that_pillow_does_not_know(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    results = dict(
        img=np.zeros((4, 6, 3), np.uint8),
        img_path=str(tmp_path / 'a.jpg'),
        foreground=dict(boxes=[[0, 0, 1, 1]]),
    )
    assert LoadForeground()(results)['gt_seg_map'].sum() == 1
