"""Counts, learning speed and stability against values made by hand."""

import math

import pytest
import torch
from torch.nn.functional import interpolate

from mmkd_plugin.explain.knowledge_points import (
    effective_images,
    foreground_grid,
    knowledge_points,
    learning_speed,
    stability,
)

# Two images of 2 x 3 cells; the left column is foreground.
FOREGROUND = torch.tensor([[[1, 0, 0], [1, 0, 0]]] * 2).bool()
# Background means: -2.5 and -3.5, hence -3 over the data set.
ENTROPY = torch.tensor(
    [
        [[-3.5, -2.0, -2.0], [-2.75, -3.0, -3.0]],
        [[-3.1, -3.0, -4.0], [-4.0, -3.25, -3.75]],
    ]
)


def test_counts_against_the_background_of_the_data_set():
    found = knowledge_points(ENTROPY, FOREGROUND)
    # Below -3.2: one fg cell and none; one fg cell and three.
    assert found.reference.tolist() == [-3.0, -3.0]
    assert found.n_fg.tolist() == [1, 1]
    assert found.n_bg.tolist() == [0, 3]
    assert found.lambda_.tolist() == [1.0, 0.25]
    assert found.mean_n_fg.item() == 1.0
    assert found.mean_n_bg.item() == 1.5
    # The mean of the ratios, not the ratio of the means.
    assert found.mean_lambda.item() == 0.625
    assert found.foreground_points.int().tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [1, 0, 0]],
    ]
    assert found.background_points.int().tolist() == [
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 1], [0, 1, 1]],
    ]


def test_counts_against_the_background_of_the_image():
    found = knowledge_points(ENTROPY, FOREGROUND, reference='background_image')
    # Below -2.7 and below -3.7.
    assert found.reference.tolist() == [-2.5, -3.5]
    assert found.n_fg.tolist() == [2, 1]
    assert found.n_bg.tolist() == [2, 2]
    assert found.lambda_.tolist() == [0.5, 1 / 3]


def test_counts_against_the_whole_image():
    found = knowledge_points(
        ENTROPY.double(), FOREGROUND, reference='image', b=0.5
    )
    # Means -16.25 / 6 and -21.1 / 6; below -3.208 and below -4.017.
    assert found.reference.tolist() == pytest.approx([-16.25 / 6, -21.1 / 6])
    assert found.n_fg.tolist() == [1, 0]
    assert found.n_bg.tolist() == [0, 0]
    # No point at all: 0, and not NaN.
    assert found.lambda_.tolist() == [1.0, 0.0]
    assert found.mean_lambda.item() == 0.5


def test_exactly_b_below_is_no_point():
    entropy = torch.tensor([[[-3.0, -2.5]], [[-3.25, -2.5]]])
    foreground = torch.tensor([[[True, False]]] * 2)
    found = knowledge_points(entropy, foreground, b=0.5)
    assert found.n_fg.tolist() == [0, 1]


def test_each_checkpoint_has_its_own_reference():
    both = torch.stack([ENTROPY, ENTROPY + 7])
    found = knowledge_points(both, FOREGROUND)
    assert found.reference.tolist() == [[-3.0, -3.0], [4.0, 4.0]]
    assert found.n_fg.tolist() == [[1, 1], [1, 1]]
    assert found.mean_n_bg.tolist() == [1.5, 1.5]
    assert found.foreground_points.shape == (2, 2, 2, 3)
    # A checkpoint by itself says the same.
    alone = knowledge_points(both[1], FOREGROUND)
    assert torch.equal(found.background_points[1], alone.background_points)


def test_the_sum_is_float64():
    # Neighbours in float32, in which their mean would be -1.
    low = -1 - 2**-23
    entropy = torch.tensor([[[low, -1.0, low]]])
    foreground = torch.tensor([[[True, False, False]]])
    found = knowledge_points(entropy, foreground, b=0.75 * 2**-23)
    assert found.reference.tolist() == [-1 - 2**-24]
    assert found.n_fg.tolist() == [0]


def test_a_network_that_sees_only_the_mask_has_lambda_one():
    entropy = torch.where(FOREGROUND, -4.0, -2.5)
    found = knowledge_points(entropy, FOREGROUND)
    assert found.mean_lambda.item() == 1.0
    assert found.mean_n_fg.item() == 2.0
    assert found.mean_n_bg.item() == 0.0


@pytest.fixture
def one_sided():
    """Images: both regions; no foreground; no background."""
    foreground = torch.tensor([[[1, 0]], [[0, 0]], [[1, 1]]]).bool()
    entropy = torch.tensor([[[-4.0, -2.0]], [[-3.0, -3.0]], [[-9.0, -1.0]]])
    return entropy, foreground


def test_images_of_one_region_are_flagged_and_not_in_the_means(one_sided):
    found = knowledge_points(*one_sided)
    assert found.without_foreground.tolist() == [False, True, False]
    assert found.without_background.tolist() == [False, False, True]
    assert found.counted.tolist() == [True, False, False]
    # The second image's background is one: (-2 - 3) / 2.
    assert found.reference.tolist() == [-2.5] * 3
    assert found.n_fg.tolist() == [1, 0, 1]
    assert found.n_bg.tolist() == [0, 2, 0]
    assert found.lambda_.tolist() == [1.0, 0.0, 1.0]
    assert found.mean_n_fg.item() == 1.0
    assert found.mean_n_bg.item() == 0.0
    assert found.mean_lambda.item() == 1.0


def test_without_background_there_is_no_reference_of_the_image(one_sided):
    found = knowledge_points(*one_sided, reference='background_image')
    assert found.reference[:2].tolist() == [-2.0, -3.0]
    assert math.isnan(found.reference[2])
    assert found.n_fg.tolist() == [1, 0, 0]


def test_no_image_counts(one_sided):
    entropy, foreground = one_sided
    found = knowledge_points(entropy[1:], foreground[1:])
    assert not found.counted.any()
    assert math.isnan(found.mean_lambda)
    assert found.n_bg.tolist() == [0, 0]


@pytest.mark.parametrize(
    'entropy, foreground, options, message',
    [
        (ENTROPY.tolist(), FOREGROUND, {}, 'entropy must be a tensor'),
        (ENTROPY[0], FOREGROUND, {}, r'\(N, h, w\) or \(M, N, h, w\)'),
        (ENTROPY.long(), FOREGROUND, {}, 'got torch.int64'),
        (ENTROPY[:0], FOREGROUND[:0], {}, r'shape \(0, 2, 3\)'),
        (ENTROPY, FOREGROUND[:1], {}, r'of shape \(1, 2, 3\)'),
        (ENTROPY, FOREGROUND.float(), {}, 'got torch.float32'),
        (ENTROPY, FOREGROUND, dict(b=-0.1), r'b must be .*>= 0.* -0\.1'),
        (ENTROPY, FOREGROUND, dict(reference='all'), "but got 'all'"),
    ],
)
def test_bad_input(entropy, foreground, options, message):
    with pytest.raises(ValueError, match=message):
        knowledge_points(entropy, foreground, **options)


def test_entropy_that_is_not_finite():
    entropy = torch.stack([ENTROPY, ENTROPY])
    entropy[1, 1, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r'1 of 2 images .* are \[1\]'):
        knowledge_points(entropy, FOREGROUND)


def test_learning_speed():
    # The second image has its maximum twice: the first one counts.
    n_fg = torch.tensor([[0, 5, 1], [3, 7, 2], [2, 7, 9]])
    found = learning_speed(n_fg, torch.tensor([0.0, 1.0, 4.0]))
    assert found.m_hat.tolist() == [1, 1, 2]
    assert found.distances.tolist() == [1.0, 1.0, 4.0]
    assert found.d_mean.item() == 2.0
    # Of the population: (1 + 1 + 4) / 3.
    assert found.d_var.item() == 2.0
    assert found.d_std.item() == pytest.approx(math.sqrt(2))
    assert not found.without_points.any()


def test_images_that_learn_nothing_are_flagged():
    n_fg = torch.tensor([[0, 0], [0, 4]])
    found = learning_speed(n_fg, torch.tensor([0.5, 2.5]))
    assert found.without_points.tolist() == [True, False]
    assert found.m_hat.tolist() == [0, 1]
    assert found.d_mean.item() == 1.5
    left = learning_speed(
        n_fg[:, ~found.without_points], torch.tensor([0.5, 2.5])
    )
    assert left.d_mean.item() == 2.5
    assert left.d_std.item() == 0.0


@pytest.mark.parametrize(
    'n_fg, distances, message',
    [
        ([1, 2], [0, 1], r'shape \(M, N\)'),
        ([[1], [2]], [0, 1, 2], 'each of the 2 checkpoints'),
        ([[1], [-2]], [0, 1], 'negative or NaN'),
        ([[1], [2]], [1, 0.5], r'never fall .* got \[1\.0, 0\.5\]'),
        ([[1], [2]], [-1, 0.5], 'not negative'),
        ([[1], [2]], [0, math.inf], 'finite'),
    ],
)
def test_bad_learning_speed(n_fg, distances, message):
    with pytest.raises(ValueError, match=message):
        learning_speed(torch.tensor(n_fg), torch.tensor(distances))


def test_stability():
    points = torch.tensor(
        [
            # kept, lost and found again, never
            [[[1, 1, 0]], [[1, 0, 1]], [[0, 0, 0]]],
            [[[1, 0, 0]], [[0, 1, 0]], [[0, 0, 0]]],
            [[[1, 0, 0]], [[1, 1, 0]], [[0, 0, 0]]],
        ]
    ).bool()
    found = stability(points)
    assert found.rho.tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    assert found.mean_rho.item() == pytest.approx(7 / 18)
    assert found.without_points.tolist() == [False, False, True]
    # One checkpoint alone has lost nothing.
    assert stability(points[:1]).rho.tolist() == [1.0, 1.0, 0.0]


def test_bad_stability():
    with pytest.raises(ValueError, match=r'bool tensor .* torch\.float32'):
        stability(torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match=r'shape \(1, 2, 2\)'):
        stability(torch.zeros(1, 2, 2).bool())


def test_effective_images():
    foreground = torch.tensor([[[True, False]]] * 4)
    early = [[[-2, -3]], [[-3, -2]], [[-2, -2]], [[-3, -2]]]
    late = [[[-3, -2]], [[-2, -3]], [[-2, -2]], [[-3, -2]]]
    entropy = torch.tensor([early, late, late]).float()
    found = effective_images(entropy, foreground, [30, 40, 50], limit=2)
    # The first is wrong only early on; the third is equal, which is enough.
    assert found.checkpoints.tolist() == [False, True, True]
    assert found.passed.tolist() == [True, False, True, True]
    assert found.kept.tolist() == [True, False, True, False]
    every = effective_images(entropy, foreground, [30, 40, 50], from_epoch=0)
    assert every.kept.tolist() == [False, False, True, True]


def test_images_of_one_region_are_not_effective(one_sided):
    entropy, foreground = one_sided
    found = effective_images(entropy[None], foreground, [40])
    assert found.kept.tolist() == [True, False, False]


def test_bad_effective_images():
    entropy = ENTROPY[None]
    with pytest.raises(ValueError, match=r'epoch 40 or later .* \[39\]'):
        effective_images(entropy, FOREGROUND, [39])
    with pytest.raises(ValueError, match='each of the 1 checkpoints'):
        effective_images(entropy, FOREGROUND, [40, 50])
    with pytest.raises(ValueError, match=r'of shape \(M, N, h, w\), but'):
        effective_images(ENTROPY, FOREGROUND, [40, 50])
    with pytest.raises(ValueError, match=r'limit must be .* 0'):
        effective_images(entropy, FOREGROUND, [40], limit=0)


def test_foreground_grid_takes_the_first_pixel_of_a_cell():
    mask = torch.zeros(4, 6, dtype=torch.uint8)
    mask[2, 3] = 1  # the first of its cell
    mask[1, 1] = 1  # the last of its cell
    cells = foreground_grid(mask, (2, 2), (4, 6))
    assert cells.dtype == torch.bool
    assert cells.int().tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize('grid', [(16, 16), (5, 7), (32, 48)])
def test_foreground_grid_is_nearest_interpolation(grid, seed):
    masks = torch.rand(3, 32, 48) > 0.5
    expected = interpolate(masks[:, None].float(), size=grid)[:, 0].bool()
    assert torch.equal(foreground_grid(masks, grid, (32, 48)), expected)


@pytest.mark.parametrize(
    'mask, grid, message',
    [
        (torch.zeros(4, 5), (2, 2), '4 x 6, but got 4 x 5'),
        (torch.zeros(1, 1, 4, 6), (2, 2), r'but got \(1, 1, 4, 6\)'),
        (torch.full((4, 6), 255), (2, 2), 'between 255 and 255'),
        (torch.full((4, 6), 0.5), (2, 2), 'between 0.5 and 0.5'),
        (torch.zeros(4, 6), (5, 2), r'4 x 6, but got \(5, 2\)'),
        (torch.zeros(4, 6), (0, 2), 'cells of grid must be .* 0'),
    ],
)
def test_bad_mask(mask, grid, message):
    with pytest.raises(ValueError, match=message):
        foreground_grid(mask, grid, (4, 6))
