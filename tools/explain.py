"""Show what distillation taught: the knowledge points of a student.

Counts the cells of images that teacher, student and a baseline without a
teacher use, on the foreground and on the background, over their training.
Writes explanation.json (all figures), per_image.csv, entropy.npz (the
entropies) and index.html (the page).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from mmkd_plugin.engine.preflight import fail
from mmkd_plugin.engine.report import write_file
from mmkd_plugin.explain import Experiment, Explanation, render_explanation
from mmkd_plugin.utils.atomic import atomic_write
from mmkd_plugin.utils.checks import check_count

HERE = os.path.dirname(os.path.abspath(__file__))


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config with `explain`')
    parser.add_argument(
        '--student',
        nargs='+',
        metavar='RUN',
        help='work dir of the student; of a training in phases, all of them '
        'in order; from the config by default',
    )
    parser.add_argument(
        '--baseline',
        nargs='+',
        metavar='RUN',
        help='work dir of the same network trained without a teacher; from '
        'the config by default',
    )
    parser.add_argument(
        '--teacher',
        metavar='CKPT',
        help='checkpoint of the teacher; from the config by default',
    )
    parser.add_argument(
        '--images',
        metavar='SET',
        help='one of explain.image_sets, or a folder with images and masks; '
        'from the config by default',
    )
    parser.add_argument(
        '--num-images', type=int, metavar='N', help='draw N of the images'
    )
    parser.add_argument(
        '--out',
        metavar='DIR',
        help='where to write; work_dirs/CONFIG/explain_SET by default',
    )
    parser.add_argument(
        '--examples',
        type=int,
        default=8,
        help='how many images the page shows (default: 8)',
    )
    parser.add_argument(
        '--train',
        action='store_true',
        help='first train what is missing, by explain.trainings',
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the networks run (default: cuda if there is one)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value, for example '
        'explain.protocol.b=0.3',
    )
    return parser.parse_args(argv)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config and put the command line into it.

    Args:
        args (argparse.Namespace): Of :func:`parse_args`.

    Returns:
        Config: The config.
    """
    if not os.path.isfile(args.config):
        raise FileNotFoundError(f'there is no config {args.config}')
    config = Config.fromfile(args.config)
    for key in args.cfg_options or ():
        if key.split('.')[0] != 'explain':
            raise ValueError(
                f'--cfg-options {key}: only what is under `explain` is read '
                f'here, such as explain.protocol.b; other names have been '
                f'put to use when the config was read'
            )
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    if config.get('custom_imports'):
        import_modules_from_strings(**config.custom_imports)
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    if 'explain' in config:
        for name, value in dict(
            student=args.student,
            baseline=args.baseline,
            teacher_ckpt=args.teacher,
            images=args.images,
            num_images=args.num_images,
        ).items():
            if value is not None:
                config.explain[name] = value
    return config


def train_missing(experiment: Experiment) -> None:
    """Train what is not there, one after the other.

    Args:
        experiment (Experiment): What is to be explained.

    Raises:
        subprocess.CalledProcessError: If a training fails.
        ValueError: If one does not leave what it should.
    """
    for item in experiment.unfinished():
        print(f'--- {item["config"]} -> {item["work_dir"]}', flush=True)
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                os.path.join(HERE, 'train.py'),
                item['config'],
                '--work-dir',
                item['work_dir'],
                '--resume',
            ],
            check=True,
        )
        print(f'--- {time.perf_counter() - start:.0f} s', flush=True)
        made = os.path.join(item['work_dir'], item['makes'])
        if not os.path.exists(made):
            raise ValueError(
                f'{item["config"]} ended, but {made} is not there, which '
                f'explain.trainings says it makes. Do its epochs differ?'
            )


def write(
    explanation: Explanation, folder: str, title: str, examples: int
) -> None:
    """Write all files.

    Args:
        explanation (Explanation): What was found.
        folder (str): Where to.
        title (str): Of the page.
        examples (int): How many images the page shows.
    """
    # Strict JSON has no NaN, and an explanation has none.
    text = json.dumps(explanation.as_dict(), indent=1, allow_nan=False)
    write_file(os.path.join(folder, 'explanation.json'), text)
    write_file(os.path.join(folder, 'per_image.csv'), explanation.as_csv())
    with atomic_write(os.path.join(folder, 'entropy.npz')) as file:
        np.savez_compressed(
            file,
            foreground=explanation.foreground.numpy(),
            **{n: r.entropy.numpy() for n, r in explanation.networks.items()},
        )
    page = render_explanation(explanation, title=title, examples=examples)
    write_file(os.path.join(folder, 'index.html'), page)


def summary(explanation: Explanation) -> str:
    """Make a table for the terminal.

    Args:
        explanation (Explanation): What was found.

    Returns:
        str: One line a network, after a heading.
    """
    lines = [
        f'{"":10}{"top-1":>8}{"N_fg":>8}{"N_bg":>8}{"lambda":>8}'
        f'{"D_mean":>8}{"D_std":>8}{"rho":>8}'
    ]
    for name, network in explanation.networks.items():
        speed, stability = network.speed, network.stability
        values = [
            network.accuracy,
            network.points.mean_n_fg[-1].item(),
            network.points.mean_n_bg[-1].item(),
            network.points.mean_lambda[-1].item(),
            speed and speed.d_mean.item(),
            speed and speed.d_std.item(),
            stability and stability.mean_rho.item(),
        ]
        cells = [
            f'{"-":>8}' if value is None else f'{value:8.{digits}f}'
            for value, digits in zip(
                values, (2, 1, 1, 3, 2, 2, 3), strict=True
            )
        ]
        lines.append(f'{name:10}' + ''.join(cells))
    return '\n'.join(lines)


def check_device(name: str) -> None:
    """Check that there is a device.

    Args:
        name (str): Its name.

    Raises:
        ValueError: If there is none.
    """
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'--device {name}: {reason}') from None


def run(args: argparse.Namespace) -> None:
    """Explain.

    Args:
        args (argparse.Namespace): Of :func:`parse_args`.

    Raises:
        Exception: As the functions that do it.
    """
    check_count('--examples', args.examples, least=0)
    check_device(args.device)
    config = read_config(args)
    experiment = Experiment(config)
    script = f'python tools/explain.py {args.config}'
    if args.train:
        # Before hours of training.
        experiment.fail_if_missing(experiment.missing_images(), script)
        image_set = experiment.load_images()
        experiment.check(image_set, args.device)
        train_missing(experiment)
        courses = experiment.read_runs(script)
    else:
        courses = experiment.read_runs(script)
        image_set = experiment.load_images()
        experiment.check(image_set, args.device)
    start = time.perf_counter()
    explanation = experiment.explain(
        courses,
        image_set,
        args.device,
        progress=lambda line: print(
            f'{time.perf_counter() - start:6.0f} s  {line}', flush=True
        ),
    )
    seconds = time.perf_counter() - start
    name = os.path.splitext(os.path.basename(args.config))[0]
    images = os.path.basename(os.path.normpath(explanation.image_set))
    folder = args.out or os.path.join('work_dirs', name, f'explain_{images}')
    title = f'Knowledge points: {name}'
    write(explanation, folder, title, args.examples)
    print(
        f'\n{summary(explanation)}\n\n{len(explanation.names)} of '
        f'{explanation.num_images} images are counted, {seconds:.1f} s'
    )
    for reason, names in explanation.dropped.items():
        if names:
            print(f'left out, {reason}: {len(names)}')
    for note in explanation.notes:
        print(f'note: {note}')
    print(f'The page is at {os.path.join(folder, "index.html")}')


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the tool.

    Args:
        argv (Sequence[str], optional): The arguments. Defaults to None,
            those of the process.
    """
    args = parse_args(argv)
    try:
        run(args)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        fail(error)


if __name__ == '__main__':
    main()
