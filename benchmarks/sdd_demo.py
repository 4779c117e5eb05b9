"""SDD-KD against KD on the embedded data, over seeds.

Two settings. ``glyphs``: students that see random printed glyphs without
labels, as in the demo, where SDD weighs regions by the teacher's answer.
``digits``: students that see the teacher's own 900 handwritten digits with
labels, weights and losses as in the CIFAR-100 configs. The last maps are 2x2,
so the scales are (1, 2). Nothing was tuned for this comparison.

    OMP_NUM_THREADS=1 python benchmarks/sdd_demo.py --seeds 0 1 2
"""

import argparse
import os
import tempfile
import time

from eeikd_ablation import load_config, print_table, set_epochs, train
from mmengine.config import Config

# Options of SDDLoss; None is plain KD.
VARIANTS = {
    'KD': None,
    'SDD-KD': dict(),
    'SDD-KD, all weights 1': dict(complementary_weight=1.0),
}
SETTINGS = ('glyphs', 'digits')


def student_config(
    setting: str,
    options: dict,
    teacher: str,
    work_dir: str,
    seed: int,
    split: str,
) -> Config:
    """Make the config of one student.

    Args:
        setting (str): ``'glyphs'`` or ``'digits'``.
        options (dict): Options of ``SDDLoss``, None for KD.
        teacher (str): Checkpoint of the teacher.
        work_dir (str): Folder of the run.
        seed (int): Seed of the run.
        split (str): Digits to evaluate on.

    Returns:
        Config: The config.
    """
    name = 'kd_random' if options is None else 'sdd_kd_random'
    config = load_config(f'{name}_digits.py', work_dir, seed, split)
    config.model.teacher_ckpt = teacher
    distiller = config.model.distiller
    (loss,) = distiller.distill_losses.values()
    loss.update(options or {})
    if setting == 'digits':
        digits = load_config('teacher_digits.py', work_dir, seed, split)
        config.train_dataloader = digits.train_dataloader
        config.model.calculate_student_loss = True
        config.model.student.head.loss.loss_weight = 0.1
        loss.loss_weight = 0.9
        if options is not None:
            loss.weight_rule = 'label'
            distiller.loss_forward_mappings.loss_sdd.gt_labels = dict(
                from_batch='gt_label'
            )
    return config


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--split', default='test', choices=['val', 'test'])
    parser.add_argument(
        '--settings', nargs='+', default=SETTINGS, choices=SETTINGS
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
            for setting in args.settings:
                for variant, options in VARIANTS.items():
                    name = f'{variant}, {setting}'
                    run = os.path.join(folder, f'{seed} {name}')
                    config = student_config(
                        setting, options, checkpoint, run, seed, args.split
                    )
                    if args.epochs is not None:
                        set_epochs(config, args.epochs)
                    start = time.perf_counter()
                    results.setdefault(name, []).append(train(config))
                    print(
                        f'seed {seed}  {name:30s} {results[name][-1]:6.2f} % '
                        f' {time.perf_counter() - start:5.1f} s',
                        flush=True,
                    )
    print_table(results, args.split, args.seeds, config.train_cfg.max_epochs)


if __name__ == '__main__':
    main()
