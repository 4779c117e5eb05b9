"""Which part of EEIKD carries the demo: each part on and off, over seeds.

Trains one teacher on handwritten digits for each seed, then students that see
printed glyphs alone, and prints mean and spread of their accuracy on real
digits. The demo's settings were chosen on the split ``val``; report ``test``.

    python benchmarks/eeikd_ablation.py --seeds 0 1 2
"""

import argparse
import copy
import os
import statistics
import tempfile
import time

import torch
from mmengine.config import Config
from mmengine.runner import Runner

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIGS = os.path.join(HERE, '..', 'configs', 'demo')
PARTS = ('selection', 'mask', 'kl', 'features', 'relation')
LOSSES = dict(
    kl=['loss_kl'],
    features=['loss_front', 'loss_back'],
    relation=['loss_relation'],
)
# What is compared: a name, and the parts that are on.
VARIANTS = {
    'KD on random glyphs': {'kl'},
    '+ selection': {'kl', 'selection'},
    '+ class dropping': {'kl', 'mask'},
    '+ explicit features': {'kl', 'features'},
    '+ relations': {'kl', 'relation'},
    'EEIKD': set(PARTS),
    '- selection': set(PARTS) - {'selection'},
    '- class dropping': set(PARTS) - {'mask'},
    '- KL': set(PARTS) - {'kl'},
    '- explicit features': set(PARTS) - {'features'},
    '- relations': set(PARTS) - {'relation'},
}


def load_config(name: str, work_dir: str, seed: int, split: str) -> Config:
    """Load a config of the demo for a run without reports.

    Args:
        name (str): File name of the config.
        work_dir (str): Folder of the run.
        seed (int): Seed of the run.
        split (str): Digits to evaluate on.

    Returns:
        Config: The config.
    """
    config = Config.fromfile(os.path.join(CONFIGS, name))
    config.work_dir = work_dir
    config.randomness = dict(seed=seed)
    config.log_level = 'WARNING'
    config.visualizer = dict(type='Visualizer', vis_backends=[])
    config.custom_hooks = [dict(type='ReseedHook')]
    config.default_hooks.checkpoint.update(
        interval=config.train_cfg.max_epochs, save_best=None
    )
    config.train_cfg.val_interval = config.train_cfg.max_epochs
    config.val_dataloader.dataset.split = split
    config.experiment_name = f'{os.path.basename(work_dir)}_{time.time_ns()}'
    return config


def student_config(
    parts: set, teacher: str, work_dir: str, seed: int, split: str
) -> Config:
    """Take EEIKD's config and leave parts out.

    Args:
        parts (set): The parts that stay.
        teacher (str): Checkpoint of the teacher.
        work_dir (str): Folder of the run.
        seed (int): Seed of the run.
        split (str): Digits to evaluate on.

    Returns:
        Config: The config.
    """
    config = load_config('eeikd_digits.py', work_dir, seed, split)
    config.model.teacher_ckpt = teacher
    distiller = config.model.distiller
    for part, names in LOSSES.items():
        if part not in parts:
            for name in names:
                distiller.distill_losses.pop(name)
                distiller.loss_forward_mappings.pop(name)
    mappings = distiller.loss_forward_mappings
    if 'mask' not in parts:
        for mapping in mappings.values():
            if mapping.preds_T.get('connector') == 'mask':
                mapping.preds_T.pop('connector')
    sources = [s for m in mappings.values() for s in m.values()]
    connectors = {s.get('connector') for s in sources}
    for name in list(distiller.connectors):
        if name not in connectors:
            distiller.connectors.pop(name)
    for side in ('student', 'teacher'):
        is_student = side == 'student'
        used = {s.recorder for s in sources if s.from_student == is_student}
        recorders = distiller[f'{side}_recorders']
        for name in list(recorders):
            if name not in used:
                recorders.pop(name)
    if 'selection' not in parts:
        config.train_dataloader.sampler = dict(
            type='RandomSubsetSampler', num_samples=config.num_samples
        )
    return config


def set_epochs(config: Config, epochs: int) -> None:
    """Stretch or shorten the schedule of a student.

    Args:
        config (Config): The student's config, changed in place.
        epochs (int): Number of epochs.
    """
    config.param_scheduler[-1].end = epochs
    config.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    config.default_hooks.checkpoint.interval = epochs


def train(config: Config) -> float:
    """Run a config.

    Args:
        config (Config): The config.

    Returns:
        float: Accuracy on the validation set after the last epoch, percent.
    """
    runner = Runner.from_cfg(copy.deepcopy(config))
    runner.train()
    return runner.message_hub.get_scalar('val/accuracy/top1').current()


def print_table(
    results: dict[str, list[float]], split: str, seeds: list[int], epochs: int
) -> None:
    """Print mean, spread and single values.

    Args:
        results (dict[str, list[float]]): Accuracies by name, in percent.
        split (str): The digits they were measured on.
        seeds (list[int]): Seeds of the runs.
        epochs (int): Length of the students' training.
    """
    print(
        f'\nAccuracy on real digits, split {split}, percent, '
        f'seeds {seeds}, {epochs} epochs, '
        f'torch {torch.__version__}\n'
    )
    print('| trained with | mean | std | each |\n|---|---|---|---|')
    for name, values in results.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ' '.join(f'{v:.2f}' for v in values)
        print(
            f'| {name} | {statistics.mean(values):.2f} | {spread:.2f} | '
            f'{each} |'
        )


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--split', default='test', choices=['val', 'test'])
    parser.add_argument(
        '--only', nargs='+', metavar='NAME', help='variants to run'
    )
    parser.add_argument(
        '--epochs', type=int, help="of the students, instead of the demo's"
    )
    args = parser.parse_args()
    variants = {
        name: parts
        for name, parts in VARIANTS.items()
        if args.only is None or name in args.only
    }
    results = {name: [] for name in ('teacher', *variants)}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            work_dir = os.path.join(folder, f'teacher_{seed}')
            config = load_config(
                'teacher_digits.py', work_dir, seed, args.split
            )
            results['teacher'].append(train(config))
            epochs = config.train_cfg.max_epochs
            checkpoint = os.path.join(work_dir, f'epoch_{epochs}.pth')
            for name, parts in variants.items():
                run = os.path.join(folder, f'{name}_{seed}'.replace(' ', '_'))
                config = student_config(
                    parts, checkpoint, run, seed, args.split
                )
                if args.epochs is not None:
                    set_epochs(config, args.epochs)
                start = time.perf_counter()
                results[name].append(train(config))
                print(
                    f'seed {seed}  {name:22s} {results[name][-1]:6.2f} %  '
                    f'{time.perf_counter() - start:5.1f} s',
                    flush=True,
                )
    print_table(results, args.split, args.seeds, config.train_cfg.max_epochs)


if __name__ == '__main__':
    main()
