"""Jacobian energy: how strongly a feature hangs on the cells of an image."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from mmkd_plugin.utils.checks import check_count, check_flag, check_tensors

FeatureFn = Callable[[Tensor], Tensor]

# Up to this feature length all directions are probed, which is exact.
_EXACT_LENGTH = 256
_PROBES = 64
# Relative difference of a feature with and without a second image in the
# batch, far above rounding (TF32, half precision) and far below what batch
# statistics or dropout do.
_MIXED = 0.05
# Gradients and outputs that live beside the saved tensors during a pass, in
# units of the largest saved tensor (a residual block needs four).
_TRANSIENT = 4
# By what factor a process grows more than its tensors: kernels copy to layouts
# of their own, and an allocator leaves gaps that nothing fits into. Measured
# on ResNets: up to 1.58 where another program took the processor, as the gaps
# depend on the timing of the threads.
_OVERHEAD = 1.7


class PassCost(NamedTuple):
    """What a forward and a backward pass take.

    Attributes:
        bytes_per_image (int): Memory besides that of the weights, estimated.
        length (int): Numbers in the feature of an image.
    """

    bytes_per_image: int
    length: int


def default_probes(length: int, probes: Optional[int]) -> int:
    """Decide from how many directions an energy is computed.

    Args:
        length (int): Numbers in the feature of an image.
        probes (int, optional): What is wanted.

    Returns:
        int: At most ``length``, which is exact.
    """
    if probes is None:
        probes = length if length <= _EXACT_LENGTH else _PROBES
    return min(probes, length)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Get the dtype to sum in.

    Args:
        dtype (torch.dtype): A floating point dtype.

    Returns:
        torch.dtype: float64 stays, anything else is float32.
    """
    return torch.promote_types(dtype, torch.float32)


def check_images(images: Tensor) -> None:
    """Check that there are images.

    Args:
        images (Tensor): Expected: floating point, shape ``(N, C, H, W)``.

    Raises:
        ValueError: If dtype or shape are others, or if there is none.
    """
    check_tensors(images=images)
    if (
        images.dim() != 4
        or not images.numel()
        or not images.is_floating_point()
    ):
        raise ValueError(
            f'images must be floating point, as the network takes them, of '
            f'shape (N, C, H, W), but got {images.dtype} of shape '
            f'{tuple(images.shape)}'
        )


def _nearest_divisors(size: int, wanted: int) -> str:
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    divisors.sort(key=lambda d: (abs(d - wanted), d))
    return ', '.join(str(d) for d in divisors[:3])


def check_grid(grid: Sequence[int], images: Tensor) -> tuple[int, int]:
    """Return the grid if it divides the images into equal cells.

    Args:
        grid (Sequence[int]): Rows and columns.
        images (Tensor): Shape ``(N, C, H, W)``.

    Returns:
        tuple[int, int]: Rows and columns.

    Raises:
        ValueError: If they are no two positive integers, or if they do not
            divide height and width.
    """
    if (
        not isinstance(grid, Sequence)
        or len(grid) != 2
        or any(type(cells) is not int or cells < 1 for cells in grid)
    ):
        raise ValueError(
            f'grid must be two positive integers, rows and columns, but got '
            f'{grid!r}'
        )
    height, width = images.shape[-2:]
    wrong = [
        f'{cells} {name} do not divide {size} pixels (nearest that do: '
        f'{_nearest_divisors(size, cells)})'
        for name, cells, size in zip(
            ('rows', 'columns'), grid, (height, width), strict=True
        )
        if size % cells
    ]
    if wrong:
        raise ValueError(
            f'grid must divide the images of {height} x {width} pixels, but '
            f'got {tuple(grid)}: {"; ".join(wrong)}'
        )
    return tuple(grid)


def flat_features(feature_fn: FeatureFn, images: Tensor, relu: bool) -> Tensor:
    """Compute the features as rows.

    Args:
        feature_fn (Callable): Images in, features of shape ``(N, ...)`` out.
        images (Tensor): Shape ``(N, C, H, W)``.
        relu (bool): Whether a ReLU follows.

    Returns:
        Tensor: Shape ``(N, L)``.

    Raises:
        ValueError: If the function returns anything else than a floating
            point tensor with a row an image.
    """
    features = feature_fn(images)
    if (
        not isinstance(features, Tensor)
        or features.dim() < 2
        or len(features) != len(images)
        or not features.numel()
        or not features.is_floating_point()
    ):
        got = (
            f'{features.dtype} of shape {tuple(features.shape)}'
            if isinstance(features, Tensor)
            else f'a {type(features).__name__}'
        )
        raise ValueError(
            f'feature_fn must return a floating point tensor of shape '
            f'({len(images)}, ...) for {len(images)} images, but got {got}'
        )
    features = features.flatten(1)
    return features.relu() if relu else features


def _saved_bytes(
    feature_fn: FeatureFn, images: Tensor, relu: bool
) -> tuple[Tensor, list[int]]:
    """Run a forward pass and measure what it keeps for the backward pass."""
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        # What is kept alive has an address of its own.
        storage = tensor.untyped_storage()
        saved.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor.detach()

    images.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        features = flat_features(feature_fn, images, relu)
    if not features.requires_grad:
        raise ValueError(
            'the output of feature_fn must depend on the images, but no '
            'gradient leads back: is something detached, or under no_grad?'
        )
    return features.detach(), list(saved.values())


def measure_pass(
    feature_fn: FeatureFn, images: Tensor, relu: bool
) -> PassCost:
    """Measure what a forward and a backward pass take for each image.

    One and two images are passed, what grows belongs to an image; weights
    do not grow. What passes by, and what a process takes beyond its tensors,
    are estimates.

    Args:
        feature_fn (Callable): Images in, features of shape ``(N, ...)`` out.
        images (Tensor): Shape ``(N, C, H, W)``.
        relu (bool): Whether a ReLU follows.

    Returns:
        PassCost: The memory of one image and the length of its feature.

    Raises:
        ValueError: If the function returns something unfit, or if the
            feature of an image changes with the others in the batch.
    """
    pair = [0, min(1, len(images) - 1)]
    alone, small = _saved_bytes(feature_fn, images[[0]], relu)
    both, large = _saved_bytes(feature_fn, images[pair], relu)
    change = (both[:1] - alone).float().norm()
    if change > _MIXED * alone.float().norm():
        raise ValueError(
            'feature_fn must treat every image for itself, but the feature '
            'of an image changes with the batch: is the model in eval mode?'
        )
    growth = [b - a for a, b in zip(small, large, strict=False)]
    image = images[0].numel() * images.element_size()
    peak = max([image, *growth])
    need = max(sum(large) - sum(small), image) + _TRANSIENT * peak
    return PassCost(math.ceil(_OVERHEAD * need), alone.shape[1])


def images_per_pass(memory: int, per_image: int, besides: int) -> int:
    """Find how many images go through the network at once.

    Args:
        memory (int): The budget in bytes.
        per_image (int): Bytes that each image takes.
        besides (int): Bytes that are taken in any case.

    Returns:
        int: At least one.

    Raises:
        ValueError: If not even one fits.
    """
    count = (memory - besides) // per_image
    if count < 1:
        raise ValueError(
            f'memory must be at least {besides + per_image} bytes, which one '
            f'image takes, but got {memory}'
        )
    return count


def _orthonormal_rows(
    count: int,
    length: int,
    dtype: torch.dtype,
    generator: Optional[torch.Generator],
) -> Tensor:
    """Draw directions, uniform among those at right angles to each other."""
    # On the generator's own device, so that the numbers depend on it alone.
    device = 'cpu' if generator is None else generator.device
    gauss = torch.randn(
        length, count, dtype=dtype, device=device, generator=generator
    )
    return torch.linalg.qr(gauss).Q.t().contiguous()


def cell_energy(
    feature_fn: FeatureFn,
    images: Tensor,
    grid: Sequence[int] = (16, 16),
    probes: Optional[int] = None,
    *,
    relu: bool = True,
    memory: int = 1 << 30,
    generator: Optional[torch.Generator] = None,
) -> Tensor:
    r"""Compute the Jacobian energy of every cell of a grid over the images.

    .. math::

        A_g = \frac{1}{L} \sum_{p \in g} \left\| \frac{\partial f}
        {\partial x_p} \right\|^2

    where :math:`p` runs over the pixels of a cell in all channels and
    :math:`L` is the length of the feature. Independent noise of scale
    :math:`\sigma_g` on the pixels moves the feature by
    :math:`\sum_g A_g \sigma_g^2` in the mean square, to first order, and
    exactly for a linear network.

    The energy is estimated without bias from gradients along random
    orthonormal directions :math:`q_k`, :math:`A_g \approx \frac{1}{K}
    \sum_k \sum_{p \in g} (q_k^\top \partial f / \partial x_p)^2`, and is
    exact where there are as many as the feature is long. All images share
    the directions. One gradient serves all cells and all images of a pass,
    as the images do not mix in eval mode.

    Args:
        feature_fn (Callable): A function from images ``(n, C, H, W)`` to
            features ``(n, ...)``, in eval mode. Its output may be of any
            shape and is flattened.
        images (Tensor): Normalised images, shape ``(N, C, H, W)``.
        grid (Sequence[int]): Rows and columns ``(h, w)``, divisors of
            height and width. Defaults to (16, 16).
        probes (int, optional): How many directions K. As many as the
            feature is long, or more, is exact. Defaults to None: exact up to
            a length of 256, otherwise 64.
        relu (bool): Whether a ReLU follows the feature, as in the released
            protocol; it changes nothing on a feature that has gone through
            one. Defaults to True.
        memory (int): Budget in bytes for what the passes take besides images
            and weights. It is held by passing fewer images at once, after an
            estimate from the tensors that one image keeps, with an allowance
            for the allocator's losses; what kernels load once comes on top,
            and below 100 MiB a process may take some MiB more. Defaults to
            1 GiB.
        generator (torch.Generator, optional): Draws the directions, on its
            own device. Not used where the energy is exact. Defaults to the
            global one.

    Returns:
        Tensor: Shape ``(N, h, w)``, squared units of the feature per squared
        unit of the image. On the device and in the dtype of the images, but
        float32 for half precision.

    Raises:
        ValueError: If the images are none, if the grid does not divide
            them, if the output of ``feature_fn`` is not a row an image, does
            not depend on the images, or changes with the other images of a
            batch, or if one image takes more than ``memory``.

    Example:
        >>> import torch
        >>> from mmkd_plugin.explain import cell_energy
        >>> images = torch.rand(1, 1, 4, 4)
        >>> left = lambda images: 2 * images[..., :2]
        >>> cell_energy(left, images, grid=(1, 2))
        tensor([[[4., 0.]]])
    """
    check_images(images)
    rows, columns = check_grid(grid, images)
    check_flag('relu', relu)
    check_count('memory', memory)
    if probes is not None:
        check_count('probes', probes)
    dtype = at_least_float32(images.dtype)
    # Gradients are wanted even where the caller switched them off.
    with torch.inference_mode(False), torch.enable_grad():
        if images.is_inference():
            images = images.clone()
        images = images.detach()
        cost = measure_pass(feature_fn, images, relu)
        length = cost.length
        probes = default_probes(length, probes)
        exact = probes == length
        # Drawing takes the draw, its factors and the rows at once.
        besides = length * dtype.itemsize * (1 if exact else 3 * probes)
        step = images_per_pass(memory, cost.bytes_per_image, besides)
        directions = None
        if not exact:
            directions = _orthonormal_rows(probes, length, dtype, generator)
            directions = directions.to(images.device)

        energies = []
        for chunk in images.split(step):
            chunk = chunk.detach().requires_grad_()
            features = flat_features(feature_fn, chunk, relu)
            squares = torch.zeros(
                len(chunk), *chunk.shape[2:], dtype=dtype, device=chunk.device
            )
            for k in range(probes):
                if exact:
                    direction = features.new_zeros(length)
                    direction[k] = 1
                else:
                    direction = directions[k].to(features.dtype)
                (gradient,) = torch.autograd.grad(
                    features,
                    chunk,
                    direction.expand_as(features),
                    retain_graph=k + 1 < probes,
                )
                squares += gradient.to(dtype).square().sum(1)
            height, width = chunk.shape[2:]
            cells = squares.view(
                len(chunk), rows, height // rows, columns, width // columns
            )
            energies.append(cells.sum((2, 4)) / probes)
        return torch.cat(energies)
