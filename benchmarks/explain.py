"""Knowledge points: the flow against the released procedure, and its cost.

``--part trained``: the entropies that ``entropy_flow`` reads off the Jacobian
against those that ``entropy_sgd`` learns with the released constants, on the
teacher of the demo, which is trained first if its checkpoint is not there. The
flow has as many probes as it has by default.

``--part resnet18``: time of ``cell_energy`` on mmpretrain's ResNet-18 with
random weights, and by how much the process grows under a budget. A process for
each budget starts anew and works on more images than fit into a pass. Its size
when network and images are there is taken from the largest that it ever had,
so that copies inside of kernels and gaps of the allocator count. What a small
image makes it load once, the code of kernels, is told apart.

Both say how far few probes are from many, of which the same image is asked.
The exit status is 1 if a goal is missed.

    OMP_NUM_THREADS=1 python benchmarks/explain.py
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn

from mmkd_plugin.explain import (
    CellEntropy,
    LayerFeature,
    cell_energy,
    entropy_flow,
    entropy_sgd,
    foreground_grid,
    knowledge_points,
    load_images,
)
from mmkd_plugin.explain.cell_energy import FeatureFn, measure_pass
from mmkd_plugin.utils.architecture import build_architecture
from mmkd_plugin.utils.checkpoint import load_strict, load_weights

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = os.path.join(ROOT, 'configs', 'demo', 'kp_teacher_scenes.py')
WORK_DIR = os.path.join(ROOT, 'work_dirs', 'demo', 'kp_teacher')
PARTS = ('trained', 'resnet18')
GRID = (16, 16)
# Least correlation, largest distance in nats and share of the time.
CORRELATION, DISTANCE, SHARE = 0.95, 0.08, 0.01
# What few probes are compared with; its own error is a third of that of 64.
FEW, MANY = (16, 32, 64, 128), 512
RESNET18 = dict(
    type='mmpretrain.ImageClassifier',
    _scope_='mmpretrain',
    backbone=dict(type='ResNet', depth=18, out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=512),
)
LAYER = 'backbone.layer4'
MIB = 2**20


def generator(seed: int = 0) -> torch.Generator:
    """Get a generator of random numbers.

    Args:
        seed (int): Its seed. Defaults to 0.

    Returns:
        torch.Generator: On the CPU.
    """
    return torch.Generator().manual_seed(seed)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Call a function.

    Args:
        function (Callable): What to call.

    Returns:
        tuple[Any, float]: What it returned, and the seconds that it took.
    """
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def agreement(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Compare entropies over all cells of all images.

    Args:
        first (Tensor): Entropies in nats, any shape.
        second (Tensor): Others, of the same shape.

    Returns:
        tuple[float, float]: Correlation, and root of the mean square
        difference in nats.
    """
    pair = torch.stack([first.flatten(), second.flatten()]).double()
    distance = (pair[0] - pair[1]).square().mean().sqrt()
    return torch.corrcoef(pair)[0, 1].item(), distance.item()


def print_probes(feature_fn: FeatureFn, images: Tensor, lam: float) -> None:
    """Print how far few probes are from many.

    Args:
        feature_fn (Callable): The network.
        images (Tensor): Normalised images, shape ``(N, C, H, W)``.
        lam (float): Weight of the mean entropy.
    """

    def entropy(probes: int, seed: int) -> Tensor:
        energy = cell_energy(
            feature_fn, images, GRID, probes, generator=generator(seed)
        )
        return entropy_flow(energy, lam=lam).entropy

    many = entropy(MANY, seed=1)
    print(f'probes   rms distance to {MANY} others, nats')
    for count in FEW:
        _, distance = agreement(entropy(count, seed=2), many)
        print(f'{count:6d}   {distance:.4f}')


def trained_network(
    config: Config, checkpoint: str, layer: str, count: int
) -> tuple[LayerFeature, Tensor, Tensor]:
    """Load a network and images with foregrounds.

    Args:
        config (Config): Of the network's training; its test images have
            foregrounds.
        checkpoint (str): Its weights.
        layer (str): Dotted path of the module.
        count (int): Number of images.

    Returns:
        tuple[LayerFeature, Tensor, Tensor]: The layer, the normalised images,
        shape ``(N, 3, H, W)``, and the cells of their foregrounds, shape
        ``(N, h, w)``.
    """
    init_default_scope('mmpretrain')
    image_set = load_images(
        DATASETS.build(config.test_dataloader.dataset), count
    )
    network = build_architecture(config.model)
    load_strict(network, load_weights(checkpoint), 'network', checkpoint)
    batch = network.data_preprocessor(
        dict(inputs=image_set.images), training=False
    )
    size = tuple(image_set.masks.shape[1:])
    foreground = foreground_grid(image_set.masks, GRID, size)
    return LayerFeature(network, layer), batch['inputs'], foreground


def train() -> str:
    """Train the teacher of the demo, if that has not been done.

    Returns:
        str: Its checkpoint.
    """
    epochs = Config.fromfile(CONFIG).train_cfg.max_epochs
    checkpoint = os.path.join(WORK_DIR, f'epoch_{epochs}.pth')
    if not os.path.isfile(checkpoint):
        tool = os.path.join(ROOT, 'tools', 'train.py')
        subprocess.run(
            [sys.executable, tool, CONFIG, '--work-dir', WORK_DIR],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return checkpoint


def print_trained(args: argparse.Namespace) -> bool:
    """Compare flow and released procedure, and print.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        bool: Whether all goals are met.
    """
    config = Config.fromfile(args.config)
    layer = args.layer or config.layer
    feature_fn, images, foreground = trained_network(
        config,
        args.checkpoint or train(),
        layer,
        max(args.images, args.flow_images),
    )
    # The released procedure has a batch of noise for each image; the flow is
    # one for many images.
    few = images[: args.images]

    def flow() -> CellEntropy:
        energy = cell_energy(feature_fn, images, GRID, generator=generator())
        return entropy_flow(energy, lam=args.lam)

    times = []
    for _ in range(args.rounds + 1):
        fast, seconds = timed(flow)
        times.append(seconds)
    # The first call warms up.
    quick = statistics.median(times[1:])
    slow, long = timed(
        lambda: entropy_sgd(
            feature_fn, few, GRID, lam=args.lam, generator=generator()
        )
    )
    quick, long = quick / len(images), long / len(few)

    count = len(few)
    fast = CellEntropy(*(values[:count] for values in fast))
    foreground = foreground[:count]
    both = fast.has_energy & slow.has_energy
    print(
        f'{os.path.basename(args.config)}, {layer}, {count} images of '
        f'{images.shape[2]} x {images.shape[3]}, grid {GRID[0]} x {GRID[1]}, '
        f'lambda {args.lam:g}, {both.sum()} with energy; the flow is timed on '
        f'{len(images)} at once'
    )
    print('method   N_fg    N_bg    target met   s / image')
    for name, found, seconds in (('flow', fast, quick), ('sgd', slow, long)):
        points = knowledge_points(found.entropy[both], foreground[both])
        print(
            f'{name:<6} {points.mean_n_fg.item():6.2f}  '
            f'{points.mean_n_bg.item():6.2f}   {found.reached.sum():6d}     '
            f'{seconds:12.4f}'
        )
    correlation, distance = agreement(fast.entropy[both], slow.entropy[both])
    share = quick / long
    print(f'correlation {correlation:.4f}  (goal: > {CORRELATION})')
    print(f'rms distance {distance:.4f} nat  (goal: < {DISTANCE})')
    print(f'time of the flow {share:.2%} of sgd  (goal: <= {SHARE:.0%})')
    print_probes(feature_fn, few, args.lam)
    return correlation > CORRELATION and distance < DISTANCE and share <= SHARE


def resnet18() -> nn.Module:
    """Build the network, always with the same weights.

    Returns:
        nn.Module: An ``ImageClassifier``.
    """
    torch.manual_seed(0)
    return MODELS.build(RESNET18)


def process_size(key: str) -> int:
    """Look up the memory of this process.

    Args:
        key (str): ``'VmRSS'``, what it is now, or ``'VmHWM'``, the most that
            it ever was.

    Returns:
        int: Bytes.
    """
    with open('/proc/self/status') as stream:
        values = dict(line.split(':', 1) for line in stream)
    return 1024 * int(values[key].split()[0])


def settled_size() -> int:
    """Look up the memory of this process, without what has been freed.

    Returns:
        int: Bytes.
    """
    # It must not hide what is taken next.
    ctypes.CDLL(None).malloc_trim(0)
    return process_size('VmRSS')


def measure(memory: int, count: int, side: int) -> dict:
    """Measure time and growth of this process.

    Args:
        memory (int): The budget, bytes.
        count (int): Number of images.
        side (int): Their height and width, pixels.

    Returns:
        dict: ``seconds`` for each image, ``once``, what is loaded once, and
        ``growth``, what else is taken at most, bytes, and ``at_once``, the
        most images in a pass.
    """
    feature_fn = LayerFeature(resnet18(), LAYER)
    images = torch.randn(count, 3, side, side, generator=generator())
    sizes = []

    def watched(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return feature_fn(batch)

    before = settled_size()
    cell_energy(feature_fn, images[:1, :, :32, :32], (2, 2), 2)
    loaded = settled_size()
    _, seconds = timed(
        lambda: cell_energy(
            watched, images, GRID, memory=memory, generator=generator()
        )
    )
    # Where the process was larger before, too much is said, not too little.
    growth = process_size('VmHWM') - loaded
    return dict(
        seconds=seconds / count,
        once=loaded - before,
        growth=growth,
        at_once=max(sizes[2:]),
    )


def measure_apart(memory: int, count: int, side: int) -> dict:
    """Call :func:`measure` in a process of its own.

    Args:
        memory (int): See there, as the others.
        count (int): Number of images.
        side (int): Height and width.

    Returns:
        dict: See there.
    """
    task = json.dumps(dict(memory=memory, count=count, side=side))
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), '--measure', task],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def print_resnet18(args: argparse.Namespace) -> bool:
    """Measure time and memory, and print.

    Args:
        args (argparse.Namespace): The command line.

    Returns:
        bool: Whether all budgets are held.
    """
    side = args.side
    feature_fn = LayerFeature(resnet18(), LAYER)
    images = torch.randn(2, 3, side, side, generator=generator())
    cost = measure_pass(feature_fn, images, relu=True)
    print(
        f'ResNet-18, {LAYER}, {side} x {side}, feature of {cost.length} '
        f'numbers, estimated {cost.bytes_per_image / MIB:.1f} MiB an image'
    )
    print('budget MiB   peak MiB   + once   images at once   s / image')
    held = True
    for budget in args.memory:
        found = measure_apart(
            budget * MIB, budget * MIB // cost.bytes_per_image + 1, side
        )
        growth = found['growth'] / MIB
        fits = growth <= budget
        held = held and fits
        print(
            f'{budget:10d} {growth:10.1f} {found["once"] / MIB:8.1f} '
            f'{found["at_once"]:16d} {found["seconds"]:11.3f}'
            f'{"" if fits else "   budget exceeded"}',
            flush=True,
        )
    print_probes(feature_fn, images[:1], args.lam)
    return held


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Measure and print.

    Args:
        arguments (Sequence[str], optional): The command line. Defaults to
            that of the process.

    Returns:
        int: 1 if a goal is missed, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--part', nargs='+', default=PARTS, choices=PARTS)
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument(
        '--checkpoint', help="of --config; needed where that is not the demo's"
    )
    parser.add_argument(
        '--layer', help='of the trained network, if --config has no `layer`'
    )
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument(
        '--flow-images',
        type=int,
        default=64,
        help='how many the flow works on at once when it is timed',
    )
    parser.add_argument('--rounds', type=int, default=5, help='of the flow')
    parser.add_argument(
        '--lam', type=float, default=6.0, help='released: 6 for ResNets'
    )
    parser.add_argument(
        '--memory', type=int, nargs='+', default=[256, 512, 1024], help='MiB'
    )
    parser.add_argument('--side', type=int, default=224, help='of ResNet-18')
    parser.add_argument('--measure', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure is not None:
        print(json.dumps(measure(**args.measure)))
        return 0
    if args.checkpoint is None and args.config != CONFIG:
        parser.error('--config needs --checkpoint')
    print(f'{torch.get_num_threads()} threads, torch {torch.__version__}')
    parts = dict(trained=print_trained, resnet18=print_resnet18)
    met = [parts[name](args) for name in args.part]
    return 0 if all(met) else 1


if __name__ == '__main__':
    sys.exit(main())
