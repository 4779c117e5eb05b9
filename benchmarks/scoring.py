"""Scoring the unlabeled set against the bare teacher over the same images.

python benchmarks/scoring.py --images 2048 --rounds 3
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope

from mmkd_plugin.datasets import AdaptiveThresholdSampler, ArrayImages

CONFIG = os.path.join(
    os.path.dirname(__file__), '..', 'configs', 'eeikd_r34_r18_cifar100.py'
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=int, default=2048)
    parser.add_argument('--batch', type=int, default=256)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    init_default_scope('mmpretrain')
    config = Config.fromfile(CONFIG)
    teacher = MODELS.build(config.model.teacher)
    teacher.train(False)
    device = get_device()
    teacher.to(device, memory_format=torch.channels_last)
    preprocessor = MODELS.build(config.model.data_preprocessor).to(device)
    rng = np.random.default_rng(0)
    dataset = ArrayImages(
        rng.integers(0, 256, (args.images, 32, 32, 3), dtype=np.uint8)
    )
    ready = [
        preprocessor(dataset.__getitems__(range(i, i + args.batch)), False)[
            'inputs'
        ]
        for i in range(0, args.images, args.batch)
    ]

    def floor() -> None:
        with torch.no_grad():
            for images in ready:
                # Read, as a score must be: else the device may lag behind.
                teacher(images).cpu()

    def ours() -> None:
        AdaptiveThresholdSampler(
            dataset,
            num_samples=args.images // 4,
            teacher=teacher,
            data_preprocessor=preprocessor,
            batch_size=args.batch,
            seed=0,
        )

    times = {floor: [], ours: []}
    for _ in range(args.rounds):
        for run, seconds in times.items():
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    low, own = (statistics.median(s) for s in times.values())
    print(
        f'{args.images} images, batch {args.batch}, '
        f'{torch.get_num_threads()} threads, median of {args.rounds}'
    )
    print(f'bare teacher  {args.images / low:7.0f} images/s')
    print(f'scoring       {args.images / own:7.0f} images/s')
    print(f'ratio         {own / low:7.3f}  (goal: <= 1.05)')


if __name__ == '__main__':
    main()
