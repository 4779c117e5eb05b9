"""Train a teacher or distil a student from a config."""

import argparse
import os

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd_plugin.engine.cpu_distributed import (
    end_distributed,
    prepare_distributed,
)
from mmkd_plugin.engine.preflight import check_overrides, fail, preflight
from mmkd_plugin.engine.resume import find_resume_checkpoint


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir',
        help='folder of logs and checkpoints; work_dirs/CONFIG by default',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a path, from the latest '
        'one in the work dir',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by total batch size over '
        'auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value; nested keys '
        'have dots, lists look like key="[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='who started this process',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def merge_args(config: Config, args: argparse.Namespace) -> None:
    """Put the command line into the config."""
    if args.cfg_options is not None:
        check_overrides(config, args.cfg_options)
        config.merge_from_dict(args.cfg_options)
    config.launcher = args.launcher
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        name = os.path.splitext(os.path.basename(args.config))[0]
        config.work_dir = os.path.join('work_dirs', name)
    if args.amp:
        if get_device() == 'cpu':
            raise ValueError('--amp needs an accelerator, there is none')
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in config.get('auto_scale_lr', {}):
            raise ValueError(
                '--auto-scale-lr needs auto_scale_lr.base_batch_size in the '
                'config'
            )
        config.auto_scale_lr.enable = True
    if args.resume == 'auto':
        latest = find_resume_checkpoint(config.work_dir)
        # Where there is none yet, the config says what to start from.
        if latest is not None:
            config.resume, config.load_from = True, latest
    elif args.resume is not None:
        config.resume, config.load_from = True, args.resume


def main() -> None:
    """Train."""
    args = parse_args()
    try:
        config = Config.fromfile(args.config)
        merge_args(config, args)
        preflight(config, f'python tools/train.py {args.config}')
        prepare_distributed(config)
    except (OSError, ValueError, TypeError, KeyError) as error:
        fail(error)
    if 'runner_type' in config:
        runner = RUNNERS.build(config)
    else:
        runner = Runner.from_cfg(config)
    try:
        runner.train()
    except FloatingPointError as error:
        fail(error)
    end_distributed()


if __name__ == '__main__':
    main()
