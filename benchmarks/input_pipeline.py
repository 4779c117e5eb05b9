"""Input of CIFAR-size images against mmpretrain's stock pipeline.

Both load, crop with padding, flip and normalise random images of 32x32
pixels and end in the same tensors; mmpretrain's stock way (RandomCrop,
RandomFlip, PackInputs, ClsDataPreprocessor) and ours alternate.

    python benchmarks/input_pipeline.py --workers 0
"""

import argparse
import statistics
import time

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor

from mmkd_plugin.datasets import ArrayImages
from mmkd_plugin.models import BatchAugDataPreprocessor

STATISTICS = dict(mean=[129.3, 124.1, 112.4], std=[68.2, 65.4, 70.4])
LABELS = 100


@DATASETS.register_module()
class RandomStock(BaseDataset):
    """Random images in the form in which mmpretrain keeps CIFAR."""

    def __init__(self, num_images: int, **kwargs) -> None:
        self.num_images = num_images
        super().__init__(**kwargs)

    def load_data_list(self) -> list:
        """Make the images."""
        rng = np.random.default_rng(0)
        return [
            dict(
                img=rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
                gt_label=int(rng.integers(LABELS)),
            )
            for _ in range(self.num_images)
        ]


@DATASETS.register_module()
class RandomArray(ArrayImages):
    """The same number of random images as one array."""

    def __init__(self, num_images: int) -> None:
        rng = np.random.default_rng(0)
        super().__init__(
            rng.integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8),
            rng.integers(0, LABELS, num_images),
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=int, default=20_000)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--workers', type=int, default=0)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    init_default_scope('mmpretrain')
    loader = dict(
        batch_size=args.batch,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    stock = Runner.build_dataloader(
        dict(
            **loader,
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='RandomStock',
                num_images=args.images,
                pipeline=[
                    dict(type='RandomCrop', crop_size=32, padding=4),
                    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
                    dict(type='PackInputs'),
                ],
            ),
        ),
        seed=0,
    )
    ours = Runner.build_dataloader(
        dict(
            **loader,
            collate_fn=dict(type='array_collate'),
            dataset=dict(type='RandomArray', num_images=args.images),
        ),
        seed=0,
    )
    preprocessors = {
        'stock': (stock, ClsDataPreprocessor(**STATISTICS)),
        'ours': (
            ours,
            BatchAugDataPreprocessor(
                **STATISTICS,
                augments=[
                    dict(type='BatchRandomCrop', crop_size=32, padding=4),
                    dict(type='BatchRandomFlip', prob=0.5),
                ],
            ),
        ),
    }
    rates = {name: [] for name in preprocessors}
    for turn in range(args.rounds + 1):
        for name, (loader, preprocessor) in preprocessors.items():
            start = time.perf_counter()
            seen = 0
            for batch in loader:
                seen += len(preprocessor(batch, True)['inputs'])
            if turn:  # the first round starts the workers
                rates[name].append(seen / (time.perf_counter() - start))
    stock, ours = (statistics.median(r) for r in rates.values())
    print(
        f'batch {args.batch}, {args.workers} workers, '
        f'{torch.get_num_threads()} threads, median of {args.rounds}'
    )
    print(f'stock  {stock:9.0f} images/s')
    print(f'ours   {ours:9.0f} images/s')
    print(f'ratio  {ours / stock:9.1f}  (goal: >= 10)')


if __name__ == '__main__':
    main()
