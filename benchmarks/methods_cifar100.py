"""Each method's config through tools/train.py on CIFAR-100, for a few steps.

A teacher without training will do to see that every loss is finite and what a
step costs. Each config runs as a user runs it, in a process of its own, on the
first images of the data set. Machines have slow minutes: plain KD runs first,
after every four runs and last, and the ratio is to the mean of the nearest
two. The time of a step is the median of those in the log, the first two left
out; it is one of this config's networks, which are not the same in all rows.

    OMP_NUM_THREADS=2 python benchmarks/methods_cifar100.py data/cifar100
"""

import argparse
import copy
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import torch
from methods import CONFIGS, METHODS, Method, load
from mmengine.registry import MODELS, init_default_scope

TRAIN = os.path.join(CONFIGS, '..', 'tools', 'train.py')


DATA = 'dataloader.dataset.dataset'


def save_untrained(config: dict, folder: Path) -> str:
    """Save a network as its initialisation leaves it, once."""
    config = {k: v for k, v in config.items() if k != 'init_cfg'}
    path = folder / f'{hashlib.sha256(repr(config).encode()).hexdigest()}.pth'
    if not path.exists():
        init_default_scope('mmpretrain')
        torch.manual_seed(0)
        torch.save(MODELS.build(copy.deepcopy(config)).state_dict(), path)
    return str(path)


def find(value: Any, name: str, path: str) -> Iterator[str]:
    """Find the paths of a key in nested dicts and lists."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            if key == name:
                yield f'{path}.{key}'
            yield from find(part, name, f'{path}.{key}')


def settings(name: str, args: argparse.Namespace, folder: Path) -> dict:
    """Make the settings that shorten a config, for the command line."""
    config = load(name)
    model = config.model.to_dict()
    options = {
        'train_dataloader.batch_size': args.batch,
        f'train_{DATA}.data_root': args.data_root,
        f'train_{DATA}.indices': args.batch * args.steps,
        f'val_{DATA}.data_root': args.data_root,
        f'val_{DATA}.indices': 100,
        'val_dataloader.batch_size': 100,
        'train_cfg.max_epochs': 1,
        'train_cfg.val_interval': 1,
        'default_hooks.logger.interval': 1,
    }
    for name, hook in config.default_hooks.items():
        if 'dataloader' in hook:
            held_out = f'default_hooks.{name}.{DATA}'
            options[f'{held_out}.data_root'] = args.data_root
            options[f'{held_out}.indices'] = -100
    if 'batch_size' in model:
        # Of DLB, the same number.
        options['model.batch_size'] = args.batch
    for path in find(model, 'num_samples', 'model'):
        options[path] = args.batch * args.steps
    if 'teacher' in model:
        options['model.teacher_ckpt'] = save_untrained(
            model['teacher'], folder
        )
    for key, teacher in model.get('teachers', {}).items():
        options[f'model.teachers.{key}.ckpt'] = save_untrained(
            teacher['model'], folder
        )
    return options


def run(
    name: str, args: argparse.Namespace, folder: Path, links: dict
) -> dict:
    """Run a config.

    Args:
        name (str): File name of the config.
        args (argparse.Namespace): The arguments of this script.
        folder (Path): An empty folder for the run.
        links (dict): Settings that name what an earlier run has left.

    Returns:
        dict: ``terms``, the names of the loss terms, ``finite``, whether all
        were, ``seconds`` of a step, and ``error``, the last line of a run
        that failed.
    """
    work_dir = folder / name.removesuffix('.py')
    options = {**settings(name, args, folder), **links}
    result = subprocess.run(
        [
            *(sys.executable, TRAIN, os.path.join(CONFIGS, name)),
            *('--work-dir', str(work_dir), '--cfg-options'),
            *(f'{key}={value}' for key, value in options.items()),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        return dict(error=lines[-1] if lines else 'no output')
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [step for step in steps if 'time' in step and 'loss' in step]
    terms = [key for key in steps[0] if 'loss' in key.rsplit('.')[-1]]
    return dict(
        terms=[term for term in terms if term != 'loss'] or ['loss'],
        finite=all(math.isfinite(s[term]) for s in steps for term in terms),
        seconds=statistics.median(step['time'] for step in steps[2:]),
    )


def plan(names: list[str]) -> list[tuple[str, str, Optional[Method]]]:
    """List the runs: what they are called, their configs, their methods.

    First runs have no method; plain KD is there between the others.
    """
    kd = ('KD', METHODS['KD'].config, None)
    runs = []
    for name in names:
        method = METHODS[name]
        if method.first is not None:
            runs.append((f'{name}, first run', method.first, None))
        runs.append((name, method.config, method))
    planned = []
    for place, item in enumerate(runs):
        if place % 4 == 0:
            planned.append(kd)
        planned.append(item)
    return [*planned, kd]


def cells(row: dict, ratio: float) -> str:
    """Format what a run has told."""
    if 'error' in row:
        return f'| failed: {row["error"]} | | | |'
    terms = [term.replace('distill.', '') for term in row['terms']]
    shown = ', '.join(terms) if len(terms) < 6 else f'{len(terms)} terms'
    finite = 'yes' if row['finite'] else 'NO'
    return (
        f'| {shown} | {finite} | {1000 * row["seconds"]:.0f} | {ratio:.2f} |'
    )


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data_root', help='folder of cifar-100-python')
    parser.add_argument('--only', nargs='+', metavar='NAME')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--steps', type=int, default=12)
    args = parser.parse_args()
    unknown = set(args.only or ()) - set(METHODS)
    if unknown:
        parser.error(f'{sorted(unknown)} are none of {list(METHODS)}')
    args.data_root = os.path.abspath(args.data_root)
    chosen = set(args.only or METHODS) - {'KD'}
    planned = plan([name for name in METHODS if name in chosen])
    names = [name for name, _, _ in planned]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, config, method) in enumerate(planned):
            run_folder = Path(folder) / str(place)
            run_folder.mkdir()
            links = {}
            if method is not None and method.first is not None:
                first = str(names.index(f'{name}, first run'))
                left = Path(folder, first, method.first[:-3])
                links[method.link] = str(left / method.left.format(1))
            results.append(run(config, args, run_folder, links))
            print(f'{name}: {results[-1]}', file=sys.stderr, flush=True)
    times = {
        place: results[place].get('seconds', math.nan)
        for place, name in enumerate(names)
        if name == 'KD'
    }
    print(
        f'\nCIFAR-100, batch {args.batch}, {args.steps} steps, '
        f'{torch.get_num_threads()} threads, CPU, torch {torch.__version__}; '
        f'KD in turns: {", ".join(f"{1000 * t:.0f}" for t in times.values())} '
        f'ms\n'
    )
    print('| method | config | loss terms | finite | ms a step | to KD |')
    print('|---|---|---|---|---|---|')
    for place, (name, config, _) in enumerate(planned):
        row = results[place]
        ratio = 1.0
        if name == 'KD':
            if place > 0:
                continue
            row['seconds'] = statistics.median(times.values())
        elif 'error' not in row:
            before = max(p for p in times if p < place)
            after = min(p for p in times if p > place)
            ratio = 2 * row['seconds'] / (times[before] + times[after])
        print(f'| {name} | `{config.removesuffix(".py")}` {cells(row, ratio)}')
    sys.exit(any('error' in r or not r['finite'] for r in results))


if __name__ == '__main__':
    main()
