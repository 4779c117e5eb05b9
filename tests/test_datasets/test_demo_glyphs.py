"""The unlabeled heap of the demo."""

import hashlib
import string

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image, ImageDraw

from mmkd_plugin.datasets import DemoGlyphs
from mmkd_plugin.datasets.demo_glyphs import GLYPHS, _font, _fonts


def test_registered():
    assert DATASETS.get('DemoGlyphs') is DemoGlyphs


def test_the_same_for_the_same_seed():
    np.random.seed(1)
    one = DemoGlyphs(40)
    np.random.seed(2)
    assert DemoGlyphs(40).fingerprint() == one.fingerprint()
    assert DemoGlyphs(40, seed=1).fingerprint() != one.fingerprint()
    # A larger heap begins with the smaller one.
    assert np.array_equal(DemoGlyphs(60).images[:40], one.images)


def test_images():
    dataset = DemoGlyphs(200, size=12)
    assert dataset.images.shape == (200, 12, 12, 3)
    assert (dataset.images == dataset.images[..., :1]).all()
    assert dataset.labels is None
    # Something is drawn on each, and hardly any two are the same.
    assert (dataset.images.max(axis=(1, 2, 3)) > 60).mean() > 0.95
    assert (np.median(dataset.images, axis=(1, 2, 3)) < 128).mean() > 0.9
    assert len(np.unique(dataset.images, axis=0)) > 195


def draws_as_recorded():
    """Tell whether fonts and their drawing are those of the golden value."""
    digest = hashlib.sha256()
    for path in _fonts():
        canvas = Image.new('L', (64, 64))
        ImageDraw.Draw(canvas).text(
            (31.5, 32.25),
            'R',
            fill=200,
            font=_font(path, 40),
            anchor='mm',
            stroke_width=2,
        )
        canvas = canvas.rotate(11.5, Image.BILINEAR)
        digest.update(canvas.resize((8, 8), Image.BOX).tobytes())
    return digest.hexdigest().startswith('b00a32513b058d78')


def test_the_images_of_the_published_demo():
    if not draws_as_recorded():
        pytest.skip('this Pillow or matplotlib draws letters differently')
    assert DemoGlyphs(500).fingerprint() == (
        '43ce15b6f1e58ad3a1980b75f81ad0c3070508597967d8cbc3f05d720d3a9f47'
    )


@pytest.fixture()
def drawn(monkeypatch):
    """The glyphs in the order of their drawing."""
    glyphs, text = [], ImageDraw.ImageDraw.text

    def recorded(self, xy, glyph, *args, **kwargs):
        glyphs.append(glyph)
        return text(self, xy, glyph, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', recorded)
    return glyphs


def test_all_glyphs_occur(drawn):
    dataset = DemoGlyphs(1000)
    assert set(drawn) == set(GLYPHS)
    assert set(string.digits) < set(GLYPHS)
    drawn.clear()
    assert DemoGlyphs(1000, digits=True).fingerprint() == (
        dataset.fingerprint()
    )


def test_without_digits(drawn):
    DemoGlyphs(1000, digits=False)
    assert set(drawn) == set(GLYPHS) - set(string.digits)


def test_fonts_hold_letters():
    names = [path.rsplit('/', 1)[-1] for path in _fonts()]
    assert len(names) >= 10
    assert 'DejaVuSans.ttf' in names
    assert not [n for n in names if n.startswith(('cmsy', 'cmex', 'cmmi'))]


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(num_images=0), 'num_images must be .* >= 1, but got 0'),
        (dict(size=7), 'size must be .* >= 8, but got 7'),
        (dict(digits=0), 'digits must be True or False, but got 0'),
    ],
)
def test_options_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        DemoGlyphs(**options)
