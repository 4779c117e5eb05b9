"""Every method against the plain student and plain KD, on the embedded data.

A teacher learns the demo's 900 digits; students see 100 of them, with labels.
Each method is its shipped config, put on these data with narrower networks
(``methods.py``): weights and temperatures are those published for CIFAR-100,
and nothing was tuned. Methods without a teacher, and those that train several
students, stand beside the plain student of the same network.

    OMP_NUM_THREADS=2 python benchmarks/methods_demo.py --seeds 0 1 2
"""

import argparse
import copy
import os
import statistics
import tempfile
import time

import torch
from methods import METHODS, load, on_digits
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def prepared(name: str, num_images: int, epochs: int) -> Config:
    """Load a config for a run on digits without reports."""
    config = load(name)
    on_digits(config, num_images, epochs)
    config.log_level = 'WARNING'
    config.visualizer = dict(type='Visualizer', vis_backends=[])
    return config


def set_key(config: Config, key: str, value: str) -> None:
    """Set a nested key, as on the command line."""
    config.merge_from_dict({key: value})


def train(config: Config, work_dir: str, seed: int) -> tuple[float, float]:
    """Run a config; return its accuracy in percent and its seconds."""
    config = copy.deepcopy(config)
    config.work_dir = work_dir
    config.randomness = dict(seed=seed)
    config.experiment_name = f'{os.path.basename(work_dir)}_{time.time_ns()}'
    start = time.perf_counter()
    if 'runner_type' in config:
        runner = RUNNERS.build(config)
    else:
        runner = Runner.from_cfg(config)
    runner.train()
    seconds = time.perf_counter() - start
    score = runner.message_hub.get_scalar('val/accuracy/top1').current()
    return score, seconds


def plain(config: Config) -> Config:
    """Turn a config into the training of its student alone."""
    config = copy.deepcopy(config)
    student = config.model.student
    student.data_preprocessor = config.model.data_preprocessor
    student.head.loss = dict(type='CrossEntropyLoss', loss_weight=1.0)
    config.model = student
    return config


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', nargs='+', metavar='NAME')
    parser.add_argument('--epochs', type=int, default=60)
    parser.add_argument('--images', type=int, default=100)
    args = parser.parse_args()
    unknown = set(args.only or ()) - set(METHODS)
    if unknown:
        parser.error(f'{sorted(unknown)} are none of {list(METHODS)}')
    size = args.images, args.epochs
    chosen = {
        name: method
        for name, method in METHODS.items()
        if args.only is None or name in args.only
    }
    results: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}

    def run(name: str, config: Config, folder: str, seed: int) -> str:
        work_dir = os.path.join(folder, f'{seed}_{name}'.replace(' ', '_'))
        score, took = train(config, work_dir, seed)
        results.setdefault(name, []).append(score)
        seconds.setdefault(name, []).append(took)
        print(
            f'seed {seed}  {name:24s} {score:6.2f} %  {took:5.1f} s',
            flush=True,
        )
        return work_dir

    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            teacher = prepared('teachers/resnet32x4_cifar100.py', 900, 30)
            checkpoint = os.path.join(
                run('teacher', teacher, folder, seed), 'epoch_30.pth'
            )
            base = prepared(METHODS['KD'].config, *size)
            run('plain ResNet-8', plain(base), folder, seed)
            for name, method in chosen.items():
                config = prepared(method.config, *size)
                if method.first is not None:
                    first = prepared(method.first, *size)
                    set_key(first, 'model.teacher_ckpt', checkpoint)
                    left = run(f'{name}, first run', first, folder, seed)
                    set_key(
                        config,
                        method.link,
                        os.path.join(left, method.left.format(args.epochs)),
                    )
                elif 'teacher_ckpt' in config.model:
                    config.model.teacher_ckpt = checkpoint
                run(name, config, folder, seed)
    print(
        f'\nAccuracy on 598 digits (split test), percent; {args.images} '
        f'labeled digits, {args.epochs} epochs, seeds {args.seeds}, torch '
        f'{torch.__version__}\n'
    )
    print('| method | mean | std | each | s |\n|---|---|---|---|---|')
    for name, values in results.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ' '.join(f'{value:.2f}' for value in values)
        print(
            f'| {name} | {statistics.mean(values):.2f} | {spread:.2f} | '
            f'{each} | {statistics.mean(seconds[name]):.0f} |'
        )


if __name__ == '__main__':
    main()
