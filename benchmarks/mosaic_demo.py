"""MosaicKD against KD on the embedded data, over seeds.

Students that see printed glyphs among which there is no digit: by plain KD,
and by MosaicKD, with the glyphs and synthetic images or with synthetic images
alone. Same glyphs, same number of steps. Evaluated on handwritten digits.

    OMP_NUM_THREADS=1 python benchmarks/mosaic_demo.py --seeds 0 1 2
"""

import argparse
import os
import tempfile
import time

from eeikd_ablation import load_config, print_table, set_epochs, train
from mmengine.config import Config

# Config, and what is set in it as on the command line. Half of the images in
# MosaicKD's batches are synthetic, hence the second KD.
VARIANTS = {
    'KD': ('kd_ood', {}),
    'KD, twice the glyphs in batches of 128': (
        'kd_ood',
        {
            'train_dataloader.batch_size': 128,
            'train_dataloader.sampler.num_samples': 4000,
        },
    ),
    'MosaicKD': ('mosaickd', {}),
    'MosaicKD, synthetic images only': (
        'mosaickd',
        {'default_hooks.mosaic.student_images': 'synthetic'},
    ),
    'MosaicKD, discriminator of images': (
        'mosaickd',
        {
            'default_hooks.mosaic.discriminator.patch_size': 'image',
            'default_hooks.mosaic.discriminator.image_size': 16,
        },
    ),
}


def student_config(
    variant: str, teacher: str, work_dir: str, seed: int, split: str
) -> Config:
    """Make the config of one student.

    Args:
        variant (str): Which one of ``VARIANTS``.
        teacher (str): Checkpoint of the teacher.
        work_dir (str): Folder of the run.
        seed (int): Seed of the run.
        split (str): Digits to evaluate on.

    Returns:
        Config: The config.
    """
    name, options = VARIANTS[variant]
    config = load_config(f'{name}_digits.py', work_dir, seed, split)
    config.merge_from_dict({**options, 'model.teacher_ckpt': teacher})
    return config


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--split', default='test', choices=['val', 'test'])
    parser.add_argument(
        '--only', nargs='+', default=[*VARIANTS], choices=[*VARIANTS]
    )
    parser.add_argument(
        '--epochs', type=int, help="of the students, instead of the demo's"
    )
    args = parser.parse_args()
    results = {'teacher': []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            work_dir = os.path.join(folder, f'teacher_{seed}')
            config = load_config(
                'teacher_digits.py', work_dir, seed, args.split
            )
            results['teacher'].append(train(config))
            epochs = config.train_cfg.max_epochs
            checkpoint = os.path.join(work_dir, f'epoch_{epochs}.pth')
            for name in args.only:
                config = student_config(
                    name,
                    checkpoint,
                    os.path.join(folder, f'{seed} {name}'),
                    seed,
                    args.split,
                )
                if args.epochs is not None:
                    set_epochs(config, args.epochs)
                start = time.perf_counter()
                results.setdefault(name, []).append(train(config))
                print(
                    f'seed {seed}  {name:40s} {results[name][-1]:6.2f} % '
                    f' {time.perf_counter() - start:5.1f} s',
                    flush=True,
                )
    print_table(results, args.split, args.seeds, config.train_cfg.max_epochs)


if __name__ == '__main__':
    main()
