"""Evaluate a checkpoint on the test set of a config."""

import argparse
import os

from mmengine.config import Config, DictAction
from mmengine.fileio import dump
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd_plugin.engine.cpu_distributed import (
    end_distributed,
    prepare_distributed,
)
from mmkd_plugin.engine.export import (
    choose_student,
    student_config,
    take_student,
)
from mmkd_plugin.engine.preflight import (
    fail,
    missing_inputs,
    missing_inputs_message,
)
from mmkd_plugin.utils.checkpoint import load_strict, load_weights

TEST_INPUTS = [
    dict(key='test_dataloader.dataset.data_file'),
    dict(key='test_dataloader.dataset.data_root'),
    dict(key='test_dataloader.dataset.dataset.data_root'),
]


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of a run')
    parser.add_argument(
        '--work-dir', help='folder of logs; work_dirs/CONFIG by default'
    )
    parser.add_argument('--out', help='JSON file to write the metrics to')
    parser.add_argument(
        '--student',
        metavar='NAME',
        help='which of several students that were trained together; all of '
        'them by default',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value',
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


def main() -> None:
    """Evaluate."""
    args = parse_args()
    try:
        config = Config.fromfile(args.config)
        if args.cfg_options is not None:
            config.merge_from_dict(args.cfg_options)
        config.launcher = args.launcher
        if args.work_dir is not None:
            config.work_dir = args.work_dir
        elif config.get('work_dir') is None:
            name = os.path.splitext(os.path.basename(args.config))[0]
            config.work_dir = os.path.join('work_dirs', name)
        missing = missing_inputs(config, TEST_INPUTS)
        if missing:
            raise FileNotFoundError(
                missing_inputs_message(
                    missing,
                    f'python tools/test.py {args.config} {args.checkpoint}',
                )
            )
        weights = load_weights(args.checkpoint)
        # An ensemble is the whole model, and has no teacher.
        ensemble = config.model.get('predict') == 'ensemble'
        if args.student is not None or (
            'student' in config.model and not ensemble
        ):
            # The teacher is not needed, so neither is its checkpoint.
            name = choose_student(config.to_dict(), {}, args.student)
            weights = take_student(weights, args.checkpoint, name=name)
            preprocessor = config.model.get('data_preprocessor')
            config.model = student_config(config.to_dict(), name)
            if preprocessor is not None:
                config.model.data_preprocessor = preprocessor
            if name is not None:
                # Not the loop of several.
                config.test_cfg = dict()
        # What the students started from need not be there any more.
        config.model.pop('student_ckpts', None)
        prepare_distributed(config)
        runner = Runner.from_cfg(config)
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        load_strict(model, weights, 'model', args.checkpoint)
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        fail(error)
    metrics = runner.test()
    if args.out is not None and runner.rank == 0:
        dump({name: float(v) for name, v in metrics.items()}, args.out)
    end_distributed()


if __name__ == '__main__':
    main()
