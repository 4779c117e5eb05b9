"""Knowledge points: where they lie, when they are learned, which stay."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_number,
    check_tensors,
)

REFERENCES = ('background_dataset', 'background_image', 'image')
_SHAPES = {3: '(N, h, w)', 4: '(M, N, h, w)'}


class KnowledgePoints(NamedTuple):
    """What :func:`knowledge_points` returns.

    ``*`` stands for the checkpoints: one dimension ``M``, or none.

    Attributes:
        n_fg (Tensor): Points on the foreground, int64, shape ``(*, N)``.
        n_bg (Tensor): Points on the background, int64, shape ``(*, N)``.
        lambda_ (Tensor): ``n_fg / (n_fg + n_bg)``, 0 where there is no point,
            float64, shape ``(*, N)``.
        mean_n_fg (Tensor): Mean of ``n_fg`` over the images of ``counted``,
            float64, shape ``(*)``; NaN where no image counts.
        mean_n_bg (Tensor): Likewise of ``n_bg``.
        mean_lambda (Tensor): Likewise of ``lambda_``.
        foreground_points (Tensor): The cells that are points on the
            foreground, bool, shape ``(*, N, h, w)``.
        background_points (Tensor): Likewise on the background.
        reference (Tensor): The entropy that each image is compared with, in
            nats, float64, shape ``(*, N)``; NaN where there is none.
        without_foreground (Tensor): Images that have no foreground, bool,
            shape ``(N,)``.
        without_background (Tensor): Images that have no background, bool,
            shape ``(N,)``.
        counted (Tensor): Images that have both and so are in the means,
            bool, shape ``(N,)``.
    """

    n_fg: Tensor
    n_bg: Tensor
    lambda_: Tensor
    mean_n_fg: Tensor
    mean_n_bg: Tensor
    mean_lambda: Tensor
    foreground_points: Tensor
    background_points: Tensor
    reference: Tensor
    without_foreground: Tensor
    without_background: Tensor
    counted: Tensor


class LearningSpeed(NamedTuple):
    """What :func:`learning_speed` returns.

    Attributes:
        m_hat (Tensor): Index of the checkpoint at which each image has most
            points, int64, shape ``(N,)``.
        distances (Tensor): Weight distance at ``m_hat``, float64, shape
            ``(N,)``.
        d_mean (Tensor): Mean over the images, a float64 scalar.
        d_std (Tensor): Standard deviation (of the population), likewise.
        d_var (Tensor): Variance (of the population), likewise.
        without_points (Tensor): Images that have no point at any checkpoint,
            bool, shape ``(N,)``. Their ``m_hat`` is 0.
    """

    m_hat: Tensor
    distances: Tensor
    d_mean: Tensor
    d_std: Tensor
    d_var: Tensor
    without_points: Tensor


class Stability(NamedTuple):
    """What :func:`stability` returns.

    Attributes:
        rho (Tensor): Share of the points ever learned that are there at the
            end, float64, shape ``(N,)``.
        mean_rho (Tensor): Mean over the images, a float64 scalar.
        without_points (Tensor): Images that have no point at any checkpoint,
            bool, shape ``(N,)``. Their ``rho`` is 0.
    """

    rho: Tensor
    mean_rho: Tensor
    without_points: Tensor


class EffectiveImages(NamedTuple):
    """What :func:`effective_images` returns.

    Attributes:
        kept (Tensor): The first ``limit`` images that pass, bool, shape
            ``(N,)``.
        passed (Tensor): All images that pass, bool, shape ``(N,)``.
        checkpoints (Tensor): The checkpoints that were looked at, bool,
            shape ``(M,)``.
    """

    kept: Tensor
    passed: Tensor
    checkpoints: Tensor


def _check_entropy(
    entropy: Tensor, foreground: Tensor, shapes: dict[int, str]
) -> None:
    check_tensors(entropy=entropy, foreground=foreground)
    if (
        not entropy.is_floating_point()
        or entropy.dim() not in shapes
        or not entropy.numel()
    ):
        raise ValueError(
            f'entropy must be floating point numbers of shape '
            f'{" or ".join(shapes.values())}, but got {entropy.dtype} of '
            f'shape {tuple(entropy.shape)}'
        )
    if foreground.dtype != torch.bool or (
        foreground.shape != entropy.shape[-3:]
    ):
        raise ValueError(
            f'foreground must be a bool tensor with one grid an image, shape '
            f'{tuple(entropy.shape[-3:])}, but got {foreground.dtype} of '
            f'shape {tuple(foreground.shape)}'
        )
    broken = (~entropy.isfinite()).flatten(-2).any(-1)
    broken = broken.reshape(-1, broken.shape[-1]).any(0)
    if broken.any():
        indices = broken.nonzero().flatten().tolist()
        raise ValueError(
            f'entropy must be finite, but {len(indices)} of {len(broken)} '
            f'images have NaN or infinite cells, the first are {indices[:8]}; '
            f'index out the images without energy, and report how many'
        )


def _region_mean(entropy: Tensor, region: Tensor) -> Tensor:
    """Mean over the cells of a region, ``(*, N)``; NaN without cells."""
    total = torch.where(region, entropy, 0).sum((-2, -1))
    return total / region.sum((-2, -1))


@torch.no_grad()
def knowledge_points(
    entropy: Tensor,
    foreground: Tensor,
    b: float = 0.2,
    reference: str = 'background_dataset',
) -> KnowledgePoints:
    r"""Count the cells that a network uses more than the background.

    .. math::
        N_{bg}(x) = \sum_{i \in bg(x)} 1(\bar H - H_i > b), \qquad
        N_{fg}(x) = \sum_{i \in fg(x)} 1(\bar H - H_i > b), \qquad
        \lambda = E_x \frac{N_{fg}(x)}{N_{fg}(x) + N_{bg}(x)}

    With checkpoints, each has its own :math:`\bar H`. All is computed in
    float64.

    An image without foreground or without background says nothing about how
    points are distributed over the two. It is flagged, keeps its place in the
    values per image, and is not in the means; its background, if it has one,
    is in the reference of the data set.

    Reference:
        Cheng et al., Explaining Knowledge Distillation by Quantifying the
        Knowledge, CVPR 2020, https://arxiv.org/abs/2003.03622. ``b`` is that
        of the released code, which takes ``'background_dataset'``. A second-
        hand description of the paper says that the mean is one over all
        pixels of the image: that is ``'image'``. ``'background_image'`` is
        between them. Counts are comparable only between entropies of one
        protocol.

    Args:
        entropy (Tensor): Entropy of the noise in each cell of the grid in
            nats, low where the network uses the cell; floating point, shape
            ``(N, h, w)``, or ``(M, N, h, w)`` for M checkpoints.
        foreground (Tensor): The cells of the foreground, bool, shape
            ``(N, h, w)``.
        b (float): By how many nats a cell must be below the reference.
            Defaults to 0.2.
        reference (str): What :math:`\bar H` is: the mean over images of the
            mean over their background cells (``'background_dataset'``), the
            mean over the background cells of the image itself
            (``'background_image'``), where an image without background has
            no points, or that over all its cells (``'image'``). Defaults to
            ``'background_dataset'``.

    Returns:
        KnowledgePoints: Counts per image and their means, masks of the
        points, and flags.

    Raises:
        ValueError: If shapes or dtypes do not fit, an entropy is not finite,
            or an option is unknown.

    Example:
        >>> import torch
        >>> entropy = torch.tensor([[[-3.5, -2.5], [-2.5, -2.9]]])
        >>> foreground = torch.tensor([[[True, False], [False, False]]])
        >>> found = knowledge_points(entropy, foreground)
        >>> found.n_fg.tolist(), found.n_bg.tolist()
        ([1], [1])
        >>> found.mean_lambda.item()
        0.5
    """
    _check_entropy(entropy, foreground, _SHAPES)
    check_number('b', b, least=0)
    check_choice('reference', reference, REFERENCES)
    entropy = entropy.double()
    background = ~foreground
    without_foreground = background.all(-1).all(-1)
    without_background = foreground.all(-1).all(-1)
    if reference == 'image':
        level = entropy.mean((-2, -1))
    else:
        level = _region_mean(entropy, background)
    if reference == 'background_dataset':
        has_background = level[..., ~without_background]
        level = has_background.mean(-1, keepdim=True).expand_as(level)
    # A comparison with NaN is false: without a reference there is no point.
    points = level[..., None, None] - entropy > b
    foreground_points = points & foreground
    background_points = points & background
    n_fg = foreground_points.sum((-2, -1))
    n_bg = background_points.sum((-2, -1))
    lambda_ = n_fg.double() / (n_fg + n_bg).clamp_min(1)
    counted = ~(without_foreground | without_background)
    return KnowledgePoints(
        n_fg=n_fg,
        n_bg=n_bg,
        lambda_=lambda_,
        mean_n_fg=n_fg[..., counted].double().mean(-1),
        mean_n_bg=n_bg[..., counted].double().mean(-1),
        mean_lambda=lambda_[..., counted].mean(-1),
        foreground_points=foreground_points,
        background_points=background_points,
        reference=level.contiguous(),
        without_foreground=without_foreground,
        without_background=without_background,
        counted=counted,
    )


@torch.no_grad()
def learning_speed(n_fg: Tensor, distances: Tensor) -> LearningSpeed:
    r"""Measure how far the weights go until an image has most points.

    .. math::
        \hat m(x) = \arg\max_m N_{fg}^m(x), \qquad
        D_{mean} = E_x\, d(\hat m(x)), \qquad
        D_{std} = \mathrm{std}_x\, d(\hat m(x))

    with the first maximum. Lower means faster (:math:`D_{mean}`) and more at
    the same time (:math:`D_{std}`).

    An image without a point at any checkpoint has its maximum at the first
    one, and so counts as learned at once. That is what the definition says;
    such images are flagged, and ``n_fg[:, ~without_points]`` leaves them out.

    Reference:
        Cheng et al., CVPR 2020, see :func:`knowledge_points`. What the
        released code calls the standard deviation is the variance, so both
        are given. For ResNets it pairs counts with the distance of the
        checkpoint before; here index m of both is the same checkpoint.

    Args:
        n_fg (Tensor): Points on the foreground at M checkpoints, shape
            ``(M, N)``.
        distances (Tensor): The weight distance d of each checkpoint, which
            never falls, shape ``(M,)``. Unit: norm of the initial weights.

    Returns:
        LearningSpeed: Checkpoint and distance per image, mean and spread.

    Raises:
        ValueError: If shapes do not fit, counts are negative or not finite,
            or distances are negative, not finite or fall.
    """
    check_tensors(n_fg=n_fg, distances=distances)
    if n_fg.dim() != 2 or not n_fg.numel():
        raise ValueError(
            f'n_fg must have the shape (M, N), checkpoints and images, but '
            f'got {tuple(n_fg.shape)}'
        )
    if distances.shape != n_fg.shape[:1]:
        raise ValueError(
            f'distances must have one value for each of the '
            f'{n_fg.shape[0]} checkpoints, but got the shape '
            f'{tuple(distances.shape)}'
        )
    counts, distances = n_fg.double(), distances.double()
    if not counts.isfinite().all() or counts.min() < 0:
        raise ValueError('n_fg must be counts, but some are negative or NaN')
    if (
        not distances.isfinite().all()
        or distances[0] < 0
        or (distances.diff() < 0).any()
    ):
        raise ValueError(
            f'distances must be finite, not negative, and never fall from '
            f'one checkpoint to the next, but got {distances.tolist()}'
        )
    # PyTorch gives the first of several maxima.
    m_hat = counts.argmax(0)
    reached = distances.to(m_hat.device)[m_hat]
    return LearningSpeed(
        m_hat=m_hat,
        distances=reached,
        d_mean=reached.mean(),
        d_std=reached.std(correction=0),
        d_var=reached.var(correction=0),
        without_points=(counts == 0).all(0),
    )


@torch.no_grad()
def stability(points: Tensor) -> Stability:
    r"""Measure which share of all points ever learned the network keeps.

    .. math::
        \rho = E_x \frac{|S_M(x)|}{|\bigcup_{j \le M} S_j(x)|}

    with the sets :math:`S_j(x)` of points on the foreground at checkpoint j.
    Higher means fewer detours. An image whose union is empty has 0, as in the
    released code, and is flagged; ``points[:, ~without_points]`` leaves such
    images out.

    Reference:
        Cheng et al., CVPR 2020, see :func:`knowledge_points`.

    Args:
        points (Tensor): The points on the foreground at M checkpoints in the
            order of training (``KnowledgePoints.foreground_points``), bool,
            shape ``(M, N, h, w)``.

    Returns:
        Stability: rho per image and in the mean, and flags.

    Raises:
        ValueError: If ``points`` is of another shape or dtype.
    """
    check_tensors(points=points)
    if points.dtype != torch.bool or points.dim() != 4 or not points.numel():
        raise ValueError(
            f'points must be a bool tensor of shape (M, N, h, w), but got '
            f'{points.dtype} of shape {tuple(points.shape)}'
        )
    final = points[-1].sum((-2, -1))
    union = points.any(0).sum((-2, -1))
    rho = final.double() / union.clamp_min(1)
    return Stability(rho=rho, mean_rho=rho.mean(), without_points=union == 0)


@torch.no_grad()
def effective_images(
    entropy: Tensor,
    foreground: Tensor,
    epochs: Sequence[int],
    from_epoch: int = 40,
    limit: int = 50,
) -> EffectiveImages:
    """Select images as the released code does, before anything is counted.

    An image passes if at every checkpoint from an epoch on the mean entropy
    of its background is at least that of its foreground. This prefers images
    on which the network does what the hypotheses say, hence
    :func:`knowledge_points` does not apply it; who does should report it. To
    compare two networks, the released code takes the images that are kept for
    both: ``first.kept & second.kept``. An image without foreground or without
    background does not pass.

    Reference:
        Released code of Cheng et al., CVPR 2020, see
        :func:`knowledge_points`, where 500 training images are drawn first.

    Args:
        entropy (Tensor): Entropy in nats, floating point, shape
            ``(M, N, h, w)``.
        foreground (Tensor): The cells of the foreground, bool, shape
            ``(N, h, w)``.
        epochs (Sequence[int]): The epoch of each checkpoint.
        from_epoch (int): The first epoch that matters. Defaults to 40.
        limit (int): How many images to keep at most. Defaults to 50.

    Returns:
        EffectiveImages: The images kept, those that pass, and the checkpoints
        that were looked at.

    Raises:
        ValueError: If shapes or dtypes do not fit, an entropy is not finite,
            or no checkpoint is late enough.
    """
    _check_entropy(entropy, foreground, {4: _SHAPES[4]})
    check_count('from_epoch', from_epoch, least=0)
    check_count('limit', limit)
    epochs = list(epochs)
    if len(epochs) != len(entropy):
        raise ValueError(
            f'epochs must name the epoch of each of the {len(entropy)} '
            f'checkpoints, but got {epochs!r}'
        )
    late = [epoch >= from_epoch for epoch in epochs]
    if not any(late):
        raise ValueError(
            f'at least one checkpoint must be of epoch {from_epoch} or '
            f'later (from_epoch), but epochs are {epochs!r}'
        )
    late = torch.tensor(late, device=entropy.device)
    entropy = entropy[late].double()
    inside = _region_mean(entropy, foreground)
    outside = _region_mean(entropy, ~foreground)
    # Without one of the two this compares with NaN, and is false.
    passed = (outside >= inside).all(0)
    kept = passed & (passed.cumsum(0) <= limit)
    return EffectiveImages(kept=kept, passed=passed, checkpoints=late)


def foreground_grid(
    masks: Tensor, grid: tuple[int, int], image_size: tuple[int, int]
) -> Tensor:
    """Sample foreground masks at the cells of a grid.

    The value of a cell is that of its first pixel (upper left), as
    :func:`torch.nn.functional.interpolate` with ``'nearest'`` samples, and as
    the released code does. An object smaller than a cell may have none.

    Args:
        masks (Tensor): The foreground, bool, or numbers that are 0 or 1,
            shape ``(H, W)`` or ``(N, H, W)``.
        grid (tuple[int, int]): Cells from top to bottom and from left to
            right.
        image_size (tuple[int, int]): Height and width of the images in
            pixels.

    Returns:
        Tensor: bool, shape ``(h, w)`` or ``(N, h, w)``.

    Raises:
        ValueError: If the masks are of another size than the images, hold
            something else than 0 and 1, or if the grid is finer than they.
    """
    check_tensors(masks=masks)
    height, width = image_size
    if masks.dim() not in (2, 3):
        raise ValueError(
            f'masks must have the shape (H, W) or (N, H, W), but got '
            f'{tuple(masks.shape)}'
        )
    if tuple(masks.shape[-2:]) != (height, width):
        raise ValueError(
            f'a mask must have the size of its image, {height} x {width}, '
            f'but got {masks.shape[-2]} x {masks.shape[-1]}; resize and crop '
            f'both in the same way'
        )
    grid = tuple(grid)
    for cells, pixels in zip(grid, (height, width), strict=True):
        check_count('cells of grid', cells)
        if cells > pixels:
            raise ValueError(
                f'grid must have at most one cell a pixel, {height} x '
                f'{width}, but got {grid!r}'
            )
    if masks.dtype != torch.bool and not ((masks == 0) | (masks == 1)).all():
        raise ValueError(
            f'masks must be bool, or 0 and 1, but got values between '
            f'{masks.min().item()} and {masks.max().item()}; compare them '
            f'with a threshold or a class first'
        )
    stack = masks.reshape(-1, 1, height, width).float()
    cells = interpolate(stack, size=grid, mode='nearest') > 0.5
    return cells.reshape(*masks.shape[:-2], *grid)
