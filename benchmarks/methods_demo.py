"""Every method against the plain student and plain KD, on the embedded data.

A teacher learns the demo's 900 digits; students see 128 of them, with labels.
Each method is its shipped config, put on these data with narrower networks
(``methods.py``): weights and temperatures are those published for CIFAR-100,
and nothing was tuned. Students are ResNet-8, and of the methods without a
teacher ResNet-18, narrower, whose plain training is the first run of 'born
again'. Of several students the mean is told.

    OMP_NUM_THREADS=2 python benchmarks/methods_demo.py --seeds 0 1 2
"""

import argparse
import copy
import math
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
    # Of several students, the mean of all.
    scores = [
        runner.message_hub.get_scalar(f'val/{name}accuracy/top1').current()
        for name in [f'{key}/' for key in config.model.get('students', [])]
        or ['']
    ]
    return statistics.mean(scores), seconds


def scale_weights(config: Config, factor: float) -> None:
    """Multiply the weights of the distiller's losses."""
    distiller = config.model.get('distiller') or {}
    for loss in distiller.get('distill_losses', {}).values():
        weight = loss.get('loss_weight', 1.0)
        if isinstance(weight, dict):
            weight['value'] = factor * weight.get('value', 1.0)
        else:
            loss['loss_weight'] = factor * weight


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
    parser.add_argument('--images', type=int, default=128)
    parser.add_argument(
        '--weight',
        type=float,
        default=1.0,
        help='factor on the weights of all losses of the distiller',
    )
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
    teachers = ['teacher']
    if 'mean of 3 teachers' in chosen:
        teachers += ['second teacher', 'third teacher']
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
            teacher = prepared('teachers/resnet32x4_cifar100.py', 900, 15)
            # The second and the third are for several teachers alone.
            several = [
                os.path.join(
                    run(name, teacher, folder, seed + 100 * place),
                    'epoch_15.pth',
                )
                for place, name in enumerate(teachers)
            ]
            checkpoint = several[0]
            base = prepared(METHODS['KD'].config, *size)
            run('plain ResNet-8', plain(base), folder, seed)
            for name, method in chosen.items():
                config = prepared(method.config, *size)
                scale_weights(config, args.weight)
                if 'teacher_ckpt' in config.model:
                    config.model.teacher_ckpt = checkpoint
                for place, one in enumerate(
                    config.model.get('teachers', {}).values()
                ):
                    one.ckpt = several[place]
                if method.first is not None:
                    first = prepared(method.first, *size)
                    if 'teacher_ckpt' in first.model:
                        first.model.teacher_ckpt = checkpoint
                    left = run(f'{name}, first run', first, folder, seed)
                    if method.link != 'model.teacher_ckpt':
                        # The head has not been trained.
                        results[f'{name}, first run'][-1] = math.nan
                    file = os.path.join(left, method.left.format(args.epochs))
                    config.merge_from_dict({method.link: file})
                run(name, config, folder, seed)
    print(
        f'\nAccuracy on 598 digits (split test), percent; {args.images} '
        f'labeled digits, {args.epochs} epochs, weights times '
        f'{args.weight:g}, seeds {args.seeds}, torch {torch.__version__}\n'
    )
    print('| method | mean | std | each | s |\n|---|---|---|---|---|')
    for name, values in results.items():
        if math.isnan(values[0]):
            continue
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ' '.join(f'{value:.2f}' for value in values)
        print(
            f'| {name} | {statistics.mean(values):.2f} | {spread:.2f} | '
            f'{each} | {statistics.mean(seconds[name]):.0f} |'
        )


if __name__ == '__main__':
    main()
