"""The picture of a MosaicKD run."""

import numpy as np
import pytest

from mmkd_plugin.engine.report import Picked, mosaic_figure, render


def make(num, seed, side=16, **label):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    return [Picked(image, **label) for image in images]


def groups(figure):
    """Get titles, labels and pixels from top to bottom."""
    (axes,) = figure.axes
    marks = [(text.get_position()[1], text) for text in axes.texts]
    marks += [(image.get_extent()[3], image) for image in axes.images]
    found = []
    for _, mark in sorted(marks, key=lambda pair: pair[0]):
        if hasattr(mark, 'get_extent'):
            found[-1][2].append(np.asarray(mark.get_array()))
        elif mark.get_fontsize() == 10:
            found.append((mark.get_text(), [], []))
        else:
            found[-1][1].append(mark.get_text())
    return found


def places(whole, patch):
    """Find where in an image a patch is, all such places."""
    side = len(patch)
    room = range(len(whole) - side + 1)
    return [
        (top, left)
        for top in room
        for left in room
        if np.array_equal(whole[top : top + side, left : left + side], patch)
    ]


@pytest.fixture
def pictures():
    synthetic = make(5, 0, label='cat', uncertainty=0.1)
    return synthetic, make(4, 1, label='dog', uncertainty=1e-7)


def test_groups(pictures):
    found = groups(mosaic_figure(*pictures, 6, 'epoch 3', columns=3))
    assert [title for title, _, _ in found] == [
        "Synthetic images, epoch 3 (teacher's class, confidence)",
        "Real out-of-domain images (teacher's class, confidence)",
        'Patches of the real images, 6x6 pixels',
        'Patches of the synthetic images, 6x6 pixels, epoch 3',
    ]
    assert [labels for _, labels, _ in found] == [
        ['cat\n90.5 %'] * 5,
        ['dog\n1-1e-07'] * 4,
        [],
        [],
    ]
    for (_, _, shown), given in zip(found, pictures, strict=False):
        assert np.array_equal(shown, [picked.image for picked in given])


def test_patches_of_both_are_cut_at_one_position(pictures):
    synthetic, real = pictures
    found = groups(mosaic_figure(*pictures, 6, 'epoch 3'))
    cut = []
    for (_, _, patches), images in zip(
        found[2:], (real, synthetic), strict=True
    ):
        assert np.shape(patches) == (4, 6, 6, 3)
        cut.append(
            [
                places(picked.image, patch)
                for picked, patch in zip(images, patches, strict=False)
            ]
        )
    assert cut[0] == cut[1]
    assert all(len(where) == 1 for where in cut[0])
    assert len({where[0] for where in cut[0]}) == 4


def test_patches_reach_all_borders():
    whole = np.arange(9 * 3, dtype=np.uint8).reshape(3, 3, 3)
    images = [Picked(whole)] * 100
    found = groups(mosaic_figure(images, images, 2, ''))
    seen = {places(whole, patch)[0] for patch in found[2][2]}
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_same_positions_for_the_same_seed(pictures):
    def patches(seed):
        figure = mosaic_figure(*pictures, 6, 'epoch 3', seed=seed)
        return groups(figure)[2][2]

    assert np.array_equal(patches(0), patches(0))
    assert not np.array_equal(patches(0), patches(1))


def test_patches_are_drawn_at_one_scale(pictures):
    (axes,) = mosaic_figure(*pictures, 6, 'epoch 3').axes
    extents = np.array([image.get_extent() for image in axes.images[9:]])
    assert len(extents) == 8
    sides = [extents[:, 1] - extents[:, 0], extents[:, 2] - extents[:, 3]]
    assert np.allclose(sides, sides[0][0])


@pytest.mark.parametrize('patch_size', [16, 22])
def test_patches_that_are_whole_images_are_left_out(pictures, patch_size):
    found = groups(mosaic_figure(*pictures, patch_size, 'epoch 3'))
    assert len(found) == 2


def test_without_labels():
    found = groups(mosaic_figure(make(2, 0), make(2, 1), 15, 'epoch 3'))
    assert [(title, labels) for title, labels, _ in found[:2]] == [
        ('Synthetic images, epoch 3', []),
        ('Real out-of-domain images', []),
    ]


def test_one_kind_is_missing():
    found = groups(mosaic_figure(make(2, 0), [], 6, 'epoch 3'))
    assert [len(shown) for _, _, shown in found] == [2, 0]


def test_it_can_be_drawn(pictures):
    image = render(mosaic_figure(*pictures, 6, 'epoch $3'))
    assert image.dtype == np.uint8
    # It is not only white.
    assert (image < 128).any(-1).mean() > 0.1


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (dict(patch_size=0), 'patch_size must be .* >= 1, but got 0'),
        (dict(patch_size='image'), "patch_size must be .* got 'image'"),
        (dict(columns=0), 'columns must be .* >= 1, but got 0'),
        (dict(seed=-1), 'seed must be .* >= 0, but got -1'),
        (
            dict(real=make(2, 0, side=15)),
            r'one shape, but got \(15, 15, 3\) and \(16, 16, 3\)',
        ),
        (
            dict(real=[Picked(np.zeros((16, 16, 3)))]),
            'must be uint8 .* got float64',
        ),
        (
            dict(synthetic=[Picked(np.zeros((16, 16), np.uint8))]),
            r'shape \(H, W, 3\), but got .* \(16, 16\)',
        ),
    ],
)
def test_errors(change, match):
    options = dict(
        synthetic=make(2, 0), real=make(2, 1), patch_size=6, title='x'
    )
    with pytest.raises(ValueError, match=match):
        mosaic_figure(**{**options, **change})
