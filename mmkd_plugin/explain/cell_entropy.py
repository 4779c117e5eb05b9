"""Entropy of cells: how much of an image a network lets go."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_tensors,
)

from .cell_energy import (
    FeatureFn,
    at_least_float32,
    check_grid,
    check_images,
    flat_features,
    images_per_pass,
    measure_pass,
)

KEEP = ('target', 'last')

# Entropy of a Gaussian of scale one, in nats.
_UNIT_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)
# Halvings of an interval: beyond what float64 can tell apart.
_HALVINGS = 64
# A feature that moves by fewer units of rounding than this does not move:
# the same image is rounded differently in passes of different sizes.
_ROUNDING = 8


class CellEntropy(NamedTuple):
    """Entropy of the noise that a feature tolerates in each cell.

    Attributes:
        entropy (Tensor): In nats, shape ``(N, h, w)``; low where the network
            uses the cell. NaN for images without energy.
        reached (Tensor): Whether the mean entropy of an image met the
            target, bool of shape ``(N,)``.
        has_energy (Tensor): Whether the feature moves at all with the image,
            bool of shape ``(N,)``. What is not true here must not be
            counted.
        iteration (Tensor, optional): The iteration that was kept, shape
            ``(N,)``; broken for the flow. None for the closed form.
    """

    entropy: Tensor
    reached: Tensor
    has_energy: Tensor
    iteration: Optional[Tensor]


def _entropy(sigma: Tensor) -> Tensor:
    return sigma.log() + _UNIT_ENTROPY


def _check_energy(energy: Tensor) -> None:
    check_tensors(energy=energy)
    if (
        energy.dim() != 3
        or 0 in energy.shape[1:]
        or not energy.is_floating_point()
    ):
        raise ValueError(
            f'energy must be floating point of shape (N, h, w), as '
            f'cell_energy returns it, but got {energy.dtype} of shape '
            f'{tuple(energy.shape)}'
        )
    bad = energy[~(energy.isfinite() & (energy >= 0))]
    if bad.numel():
        raise ValueError(
            f'energy must be finite and not negative, but got '
            f'{bad[0].item()}, and {bad.numel()} such values in all'
        )


def _check_sigmas(
    sigma_min: float, sigma_max: float, sigma_reference: float
) -> None:
    check_number('sigma_min', sigma_min, above=0)
    check_number('sigma_max', sigma_max, above=sigma_min)
    check_number('sigma_reference', sigma_reference, above=0)


def _check_course(
    target: float,
    lam: float,
    lr: float,
    lr_cells: Optional[int],
    iterations: int,
    extra_iterations: int,
    boost: float,
    keep: str,
    sigma_start: float,
    sigma_min: float,
    sigma_max: float,
    sigma_reference: float,
) -> None:
    check_number('target', target)
    check_number('lam', lam, above=0)
    check_number('lr', lr, above=0)
    if lr_cells is not None:
        check_count('lr_cells', lr_cells)
    check_count('iterations', iterations)
    check_count('extra_iterations', extra_iterations, least=0)
    check_number('boost', boost, above=0)
    check_choice('keep', keep, KEEP)
    _check_sigmas(sigma_min, sigma_max, sigma_reference)
    check_number('sigma_start', sigma_start, least=sigma_min, most=sigma_max)


def _scaled_lr(lr: float, lr_cells: Optional[int], cells: int) -> float:
    return lr if lr_cells is None else lr * cells / lr_cells


def _pack(
    entropy: Tensor,
    reached: Tensor,
    has_energy: Tensor,
    iteration: Optional[Tensor],
    dtype: torch.dtype,
) -> CellEntropy:
    entropy = entropy.masked_fill(~has_energy[:, None, None], math.nan)
    return CellEntropy(
        entropy.to(dtype), reached & has_energy, has_energy, iteration
    )


@torch.no_grad()
def entropy_flow(
    energy: Tensor,
    *,
    target: float = -2.8,
    lam: float = 7.0,
    lr: float = 1e-4,
    lr_cells: Optional[int] = 256,
    iterations: int = 60,
    extra_iterations: int = 20,
    boost: float = 1.5,
    keep: str = 'target',
    sigma_start: float = 0.01,
    sigma_min: float = 1e-3,
    sigma_max: float = 1.0,
    sigma_reference: float = 0.01,
) -> CellEntropy:
    r"""Follow the released optimisation as a gradient flow, in closed form.

    `Explaining Knowledge Distillation by Quantifying the Knowledge
    <https://arxiv.org/abs/2003.03622>`_ (CVPR 2020) learns the scale
    :math:`\sigma_g` of Gaussian noise in each of the G cells that moves the
    feature little but has a high entropy :math:`H_g = \log \sigma_g +
    \frac{1}{2} \log 2 \pi e`. With the energies :math:`A_g` of
    :func:`cell_energy` the loss is, to first order in the noise,

    .. math::

        \frac{\sum_g A_g \sigma_g^2}{\tau^2 \sum_g A_g}
        - \frac{\lambda}{G} \sum_g H_g

    and gradient descent on :math:`\sigma` with a small step has the path,
    with :math:`y_g = \sigma_g^2 / \tau^2`, :math:`r_g = G A_g / \sum_h A_h`,

    .. math::

        y_g(t) = \frac{\lambda}{2 r_g} + \left(y_g(0)
        - \frac{\lambda}{2 r_g}\right) e^{-4 \eta r_g t / (G \tau^2)}

    It is read where the mean entropy of the image meets the target. The path
    is derived here, not taken from the paper; the constants are those of the
    authors' released code, which stops on the way to the optimum rather than
    at it (for this see :func:`entropy_converged`). Counts of different
    ``lam``, ``target`` or methods must not be compared.

    Args:
        energy (Tensor): Jacobian energies, shape ``(N, h, w)``.
        target (float): Mean entropy in nats at which an image is read.
            Defaults to -2.8.
        lam (float): Weight :math:`\lambda` of the mean entropy; released: 7
            for VGG and AlexNet, 6 for ResNet. Defaults to 7.0.
        lr (float): Learning rate :math:`\eta` on the scale. Defaults to
            1e-4.
        lr_cells (int, optional): The number of cells that ``lr`` is meant
            for: it is multiplied by G / ``lr_cells``, so that the path does
            not depend on the grid. None takes ``lr`` as it is. Defaults to
            256.
        iterations (int): Length of the path. Defaults to 60.
        extra_iterations (int): How much further an image goes whose mean
            entropy never exceeded the target. Defaults to 20.
        boost (float): What ``lam`` is multiplied by for these. Defaults to
            1.5.
        keep (str): The point that is kept: ``'target'``, where the mean
            entropy meets the target first, or the iteration nearest to it,
            or ``'last'``, the end. Defaults to ``'target'``.
        sigma_start (float): The scale at the start, in units of the image.
            Defaults to 0.01.
        sigma_min (float): Floor of the scale. Defaults to 0.001.
        sigma_max (float): Cap of the scale. Defaults to 1.0.
        sigma_reference (float): The scale :math:`\tau` of the noise whose
            effect normalises the feature. Defaults to 0.01.

    Returns:
        CellEntropy: Entropies in the dtype of ``energy`` (float32 for half
        precision), computed in float64, and flags.

    Raises:
        ValueError: If the energies are no finite positive ``(N, h, w)``, or
            if a constant is out of its range.

    Example:
        >>> import torch
        >>> from mmkd_plugin.explain import entropy_flow
        >>> found = entropy_flow(torch.tensor([[[1.0, 1.0, 1.0, 9.0]]]))
        >>> print([round(h, 3) for h in found.entropy[0, 0].tolist()])
        [-2.693, -2.693, -2.693, -3.122]
        >>> round(found.entropy.mean().item(), 3), found.reached.item()
        (-2.8, True)
    """
    _check_energy(energy)
    _check_course(
        target,
        lam,
        lr,
        lr_cells,
        iterations,
        extra_iterations,
        boost,
        keep,
        sigma_start,
        sigma_min,
        sigma_max,
        sigma_reference,
    )
    count, rows, columns = energy.shape
    cells = rows * columns
    total = energy.double().sum((1, 2))
    has_energy = total > 0
    # Images without energy take any path, their result is blanked.
    total = total.where(has_energy, total.new_ones(()))
    relative = cells * energy.double().flatten(1) / total[:, None]
    rate = 4 * _scaled_lr(lr, lr_cells, cells) / (cells * sigma_reference**2)
    lowest = (sigma_min / sigma_reference) ** 2
    highest = (sigma_max / sigma_reference) ** 2

    def advance(y: Tensor, weight: float, time: Tensor) -> Tensor:
        # In a form that holds for cells without energy, too. Every cell
        # moves one way, so that to clamp here is to project the flow.
        decay = rate * relative * time[:, None]
        gain = torch.where(
            decay > 0, -torch.expm1(-decay) / decay, torch.ones_like(decay)
        )
        grown = weight / 2 * rate * time[:, None] * gain
        return (y * torch.exp(-decay) + grown).clamp(lowest, highest)

    def entropy(y: Tensor) -> Tensor:
        return _entropy(sigma_reference * y.sqrt())

    first = torch.full_like(relative, (sigma_start / sigma_reference) ** 2)
    turn = advance(first, lam, total.new_full((count,), iterations))

    def at(time: Tensor) -> Tensor:
        early = advance(first, lam, time.clamp(max=iterations))
        late = advance(turn, boost * lam, (time - iterations).clamp(min=0))
        return entropy(torch.where(time[:, None] > iterations, late, early))

    length = iterations + extra_iterations
    means = torch.stack(
        [
            at(total.new_full((count,), float(t))).mean(1)
            for t in range(length + 1)
        ]
    )
    short = (means[: iterations + 1] > target).any(0)
    end = torch.where(short, iterations, length)
    # What lies behind the end of an image is not on its path.
    times = torch.arange(length + 1, device=energy.device)[:, None]
    below = means <= target
    crossing = (below[1:] != below[:-1]) | (means[1:] == target)
    crossing &= times[1:] <= end
    reached = crossing.any(0) | (means[0] == target)
    if keep == 'last':
        time = end.double()
    else:
        before = crossing.int().argmax(0)
        rising = means.gather(0, before[None])[0] <= target
        low, high = before.double(), before.double() + 1
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            onward = (at(middle).mean(1) < target) == rising
            low = torch.where(onward, middle, low)
            high = torch.where(onward, high, middle)
        gaps = (means - target).abs().masked_fill(times > end, math.inf)
        nearest = gaps.argmin(0).double()
        time = torch.where(crossing.any(0), high, nearest)
    found = at(time).view(count, rows, columns)
    dtype = at_least_float32(energy.dtype)
    return _pack(found, reached, has_energy, time, dtype)


@torch.no_grad()
def entropy_converged(
    energy: Tensor,
    *,
    target: Optional[float] = -2.8,
    lam: float = 7.0,
    sigma_min: float = 1e-3,
    sigma_max: float = 1.0,
    sigma_reference: float = 0.01,
) -> CellEntropy:
    r"""Compute the entropies at the optimum of the noise, in closed form.

    The optimum of the loss in :func:`entropy_flow` is unique,

    .. math::

        \sigma_g^2 = \frac{\lambda \tau^2}{2 r_g}, \quad
        r_g = \frac{G A_g}{\sum_h A_h}

    and where :math:`\lambda` is chosen for each image such that the mean
    entropy is the target :math:`h_0`,

    .. math::

        H_g = h_0 + \frac{1}{2G} \sum_h \log A_h - \frac{1}{2} \log A_g

    Both are derived here. Between floor and cap they are exact; where cells
    are at one of them, the others make up for it. With many cells without
    energy, which are at the cap, the target leaves the others at the floor:
    ``reached`` tells.

    Args:
        energy (Tensor): Jacobian energies, shape ``(N, h, w)``.
        target (float, optional): Mean entropy in nats of every image. None
            takes the optimum at ``lam``. Defaults to -2.8.
        lam (float): Weight :math:`\lambda` of the mean entropy, for
            ``target=None``. Defaults to 7.0.
        sigma_min (float): Floor of the scale. Defaults to 0.001.
        sigma_max (float): Cap of the scale. Defaults to 1.0.
        sigma_reference (float): The scale :math:`\tau` of the noise whose
            effect normalises the feature, for ``target=None``. Defaults to
            0.01.

    Returns:
        CellEntropy: Entropies in the dtype of ``energy`` (float32 for half
        precision), computed in float64, and flags. Without a target every
        image with energy has ``reached``.

    Raises:
        ValueError: If the energies are no finite positive ``(N, h, w)``, or
            if a constant is out of its range.
    """
    _check_energy(energy)
    if target is not None:
        check_number('target', target)
    check_number('lam', lam, above=0)
    _check_sigmas(sigma_min, sigma_max, sigma_reference)
    floor = math.log(sigma_min) + _UNIT_ENTROPY
    cap = math.log(sigma_max) + _UNIT_ENTROPY
    flat = energy.double().flatten(1)
    cells = flat.shape[1]
    total = flat.sum(1)
    has_energy = total > 0
    # Minus infinity for a cell without energy, which takes it to the cap.
    half_log = flat.log() / 2
    if target is None:
        scale = lam * sigma_reference**2 * total / (2 * cells)
        level = scale.log() / 2 + _UNIT_ENTROPY
        reached = has_energy
    else:
        live = flat > 0
        lowest = half_log.masked_fill(~live, math.inf).amin(1)
        low, high = floor + lowest, cap + half_log.amax(1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            mean = (middle[:, None] - half_log).clamp(floor, cap).mean(1)
            low = torch.where(mean < target, middle, low)
            high = torch.where(mean < target, high, middle)
        # The sets of cells at the bounds are known now, which gives the
        # level of the others exactly.
        free = high[:, None] - half_log
        at_cap, at_floor = free > cap, free < floor
        inside = ~(at_cap | at_floor)
        level = (
            cells * target
            - cap * at_cap.sum(1)
            - floor * at_floor.sum(1)
            + half_log.where(inside, flat.new_zeros(())).sum(1)
        ) / inside.sum(1)
        least = torch.where(live, floor, cap).mean(1)
        reached = (least <= target) & (target <= cap)
        level = torch.where(reached & inside.any(1), level, high)
    found = (level[:, None] - half_log).clamp(floor, cap).view_as(energy)
    dtype = at_least_float32(energy.dtype)
    return _pack(found, reached, has_energy, None, dtype)


class _Noise:
    """Gaussian noise on images, in passes that fit into the memory."""

    def __init__(
        self,
        feature_fn: FeatureFn,
        images: Tensor,
        grid: tuple[int, int],
        relu: bool,
        samples: int,
        antithetic: bool,
        memory: int,
        generator: Optional[torch.Generator],
    ) -> None:
        self.feature_fn = feature_fn
        self.images = images
        self.relu = relu
        self.samples = samples
        self.antithetic = antithetic
        self.generator = generator
        self.dtype = images.dtype
        height, width = images.shape[2:]
        self.cell = (height // grid[0], width // grid[1])

        cost = measure_pass(feature_fn, images, relu)
        image = images[0].numel() * self.dtype.itemsize
        # The noise of one image is drawn at once, so that it does not depend
        # on the budget; besides the draw there are its product with the
        # scale and the sum.
        per_pass = images_per_pass(
            memory, cost.bytes_per_image + 3 * image, 2 * samples * image
        )
        self.samples_at_once = min(samples, per_pass)
        self.images_at_once = max(1, per_pass // samples)
        with torch.no_grad():
            clean = [
                flat_features(feature_fn, chunk, relu).to(self.dtype)
                for chunk in images.split(per_pass)
            ]
        self.clean = torch.cat(clean)

    def draw(self) -> Tensor:
        """Draw the noise of one image, ``(samples, C, H, W)``."""
        device = self.images.device
        if self.generator is not None:
            device = self.generator.device
        count = self.samples // 2 if self.antithetic else self.samples
        noise = torch.randn(
            count,
            *self.images.shape[1:],
            dtype=self.dtype,
            device=device,
            generator=self.generator,
        ).to(self.images.device)
        return torch.cat([noise, -noise]) if self.antithetic else noise

    def distortion(
        self, which: Tensor, sigma: Tensor, gradient: bool
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Measure how far noise moves the features of images.

        Args:
            which (Tensor): Indices of the images, shape ``(n,)``.
            sigma (Tensor): Scales of the noise, shape ``(n, h, w)``.
            gradient (bool): Whether its gradient is wanted.

        Returns:
            tuple[Tensor, Tensor or None]: The mean square for each image,
            shape ``(n,)``, and its gradient, of the shape of ``sigma``.
        """
        values = torch.zeros_like(sigma[:, 0, 0])
        gradients = torch.zeros_like(sigma) if gradient else None
        rows = torch.arange(len(which), device=which.device)
        for group in rows.split(self.images_at_once):
            picked = which[group]
            noise = torch.stack([self.draw() for _ in group])
            images = self.images[picked, None]
            clean = self.clean[picked, None]
            for part in noise.split(self.samples_at_once, dim=1):
                with torch.set_grad_enabled(gradient):
                    scale = sigma[group].detach().requires_grad_(gradient)
                    spread = scale.repeat_interleave(self.cell[0], 1)
                    spread = spread.repeat_interleave(self.cell[1], 2)
                    noisy = images + spread[:, None, None] * part
                    features = flat_features(
                        self.feature_fn, noisy.flatten(0, 1), self.relu
                    ).to(self.dtype)
                    moved = features.unflatten(0, noisy.shape[:2]) - clean
                    # A part of the mean over the samples and the feature.
                    value = moved.square().mean(2).sum(1) / self.samples
                if gradient:
                    # Images do not mix, so one sum has all gradients.
                    gradients[group] += torch.autograd.grad(
                        value.sum(), scale
                    )[0]
                values[group] += value.detach()
        return values, gradients


def entropy_sgd(
    feature_fn: FeatureFn,
    images: Tensor,
    grid: Sequence[int] = (16, 16),
    *,
    target: float = -2.8,
    lam: float = 7.0,
    lr: float = 1e-4,
    lr_cells: Optional[int] = 256,
    iterations: int = 60,
    extra_iterations: int = 20,
    boost: float = 1.5,
    keep: str = 'target',
    samples: int = 96,
    antithetic: bool = False,
    sigma_start: float = 0.01,
    sigma_min: float = 1e-3,
    sigma_max: float = 1.0,
    sigma_reference: float = 0.01,
    relu: bool = True,
    memory: int = 1 << 30,
    generator: Optional[torch.Generator] = None,
) -> CellEntropy:
    r"""Learn the noise of every cell by stochastic gradient descent.

    The procedure that the authors of `Explaining Knowledge Distillation by
    Quantifying the Knowledge <https://arxiv.org/abs/2003.03622>`_ (CVPR
    2020) released, for all images at once: descent on

    .. math::

        \frac{1}{\sigma_f^2} E_\epsilon \frac{1}{L} \left\| f(x + \sigma
        \epsilon) - f(x) \right\|^2 - \frac{\lambda}{G} \sum_g H_g

    with independent noise :math:`\epsilon` for every pixel and channel, one
    scale for each cell, and :math:`\sigma_f^2` the same mean square under
    noise of the scale ``sigma_reference``, measured for each image. Inferred
    rather than read: that the scale itself is clamped after a step, and that
    the start is one of the iterates to choose from.

    It takes thousands of passes for what :func:`entropy_flow` reads off the
    Jacobian, and is there to check it, and where noise is not small.

    Args:
        feature_fn (Callable): A function from images ``(n, C, H, W)`` to
            features ``(n, ...)``, in eval mode.
        images (Tensor): Normalised images, shape ``(N, C, H, W)``, float32
            or float64: half precision swallows noise as small as this.
        grid (Sequence[int]): Rows and columns ``(h, w)``, divisors of
            height and width. Defaults to (16, 16).
        target (float): Mean entropy in nats at which an image is read.
            Defaults to -2.8.
        lam (float): Weight :math:`\lambda` of the mean entropy; released: 7
            for VGG and AlexNet, 6 for ResNet. Defaults to 7.0.
        lr (float): Learning rate on the scale. Defaults to 1e-4.
        lr_cells (int, optional): The number of cells that ``lr`` is meant
            for: it is multiplied by G / ``lr_cells``. None takes ``lr`` as
            it is, as the released code does for its 256. Defaults to 256.
        iterations (int): Steps. Defaults to 60.
        extra_iterations (int): Further steps for an image whose mean entropy
            never exceeded the target. Defaults to 20.
        boost (float): What ``lam`` is multiplied by for these. Defaults to
            1.5.
        keep (str): The iterate that is kept: ``'target'``, whose mean
            entropy is nearest to the target, or ``'last'``. Defaults to
            ``'target'``.
        samples (int): Noise samples for each image and step. Defaults to 96.
        antithetic (bool): Whether every second sample is the negative of
            another. This cancels what is odd in the noise. The mean square
            is even as long as the noise is small; both of a pair then tell
            the same, which doubles the variance. Defaults to False.
        sigma_start (float): The scale at the start, in units of the image.
            Defaults to 0.01.
        sigma_min (float): Floor of the scale. Defaults to 0.001.
        sigma_max (float): Cap of the scale. Defaults to 1.0.
        sigma_reference (float): The scale of the noise whose effect
            normalises the feature. Defaults to 0.01.
        relu (bool): Whether a ReLU follows the feature. Defaults to True.
        memory (int): Budget in bytes for what the passes take besides images
            and weights; the result does not depend on it but for rounding.
            Defaults to 1 GiB.
        generator (torch.Generator, optional): Draws the noise, on its own
            device. Defaults to the global one.

    Returns:
        CellEntropy: Entropies in the dtype of the images, and flags. A
        feature that moves by no more than rounding has no energy.

    Raises:
        ValueError: If a constant is out of its range, if the images are of
            half precision, and for all that :func:`cell_energy` refuses.
    """
    check_images(images)
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f'images must be float32 or float64, as half precision swallows '
            f'the noise, but got {images.dtype}'
        )
    grid = check_grid(grid, images)
    _check_course(
        target,
        lam,
        lr,
        lr_cells,
        iterations,
        extra_iterations,
        boost,
        keep,
        sigma_start,
        sigma_min,
        sigma_max,
        sigma_reference,
    )
    check_count('samples', samples)
    check_flag('antithetic', antithetic)
    if antithetic and samples % 2:
        raise ValueError(
            f'samples must be even with antithetic=True, but got {samples}'
        )
    check_flag('relu', relu)
    check_count('memory', memory)
    with torch.inference_mode(False), torch.enable_grad():
        if images.is_inference():
            images = images.clone()
        noise = _Noise(
            feature_fn,
            images.detach(),
            grid,
            relu,
            samples,
            antithetic,
            memory,
            generator,
        )
        count, cells = len(images), grid[0] * grid[1]
        step = _scaled_lr(lr, lr_cells, cells)
        everyone = torch.arange(count, device=images.device)
        sigma = torch.full(
            (count, *grid),
            sigma_reference,
            dtype=noise.dtype,
            device=images.device,
        )
        norm, _ = noise.distortion(everyone, sigma, gradient=False)
        unit = _ROUNDING * torch.finfo(noise.dtype).eps
        has_energy = norm > unit**2 * noise.clean.square().mean(1)
        sigma.fill_(sigma_start)

        kept = sigma.clone()
        gap = torch.full_like(norm, math.inf)
        iteration = torch.zeros_like(everyone)
        lowest, highest = gap.clone(), -gap
        active = everyone[has_energy]
        for done in range(iterations + extra_iterations + 1):
            mean = _entropy(sigma[active]).mean((1, 2))
            lowest[active] = lowest[active].minimum(mean)
            highest[active] = highest[active].maximum(mean)
            now = (mean - target).abs()
            better = now < gap[active]
            if keep == 'last':
                better = torch.ones_like(better)
            chosen = active[better]
            gap[chosen] = now[better]
            kept[chosen] = sigma[chosen]
            iteration[chosen] = done
            if done == iterations:
                active = active[highest[active] <= target]
                lam = lam * boost
            if done == iterations + extra_iterations or not len(active):
                break
            _, slope = noise.distortion(active, sigma[active], gradient=True)
            slope = slope / norm[active, None, None]
            slope -= lam / cells / sigma[active]
            moved = sigma[active] - step * slope
            sigma[active] = moved.clamp(sigma_min, sigma_max)
    reached = (lowest <= target) & (target <= highest)
    return _pack(_entropy(kept), reached, has_energy, iteration, noise.dtype)
