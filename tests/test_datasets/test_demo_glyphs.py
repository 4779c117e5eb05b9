"""The unlabeled heap of the demo."""

import numpy as np
import pytest
from mmengine.registry import DATASETS

from mmkd_plugin.datasets import DemoGlyphs
from mmkd_plugin.datasets.demo_glyphs import _fonts


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
    ],
)
def test_options_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        DemoGlyphs(**options)
