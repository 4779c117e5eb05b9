"""Write a distilled student as a model of plain mmpretrain, and as ONNX."""

import argparse
import os
import sys

from mmengine.config import Config, DictAction

from mmkd_plugin.engine.export import export_student


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('checkpoint', help='checkpoint of its run')
    parser.add_argument(
        'out',
        metavar='OUT.pth',
        help='checkpoint to write; OUT.py, its config, is written beside it',
    )
    parser.add_argument(
        '--onnx',
        metavar='OUT.onnx',
        help='also write the logits of normalised images as ONNX',
    )
    parser.add_argument(
        '--opset', type=int, help="ONNX opset; PyTorch's default without it"
    )
    parser.add_argument(
        '--input-size',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='side of the images, or height and width; from the config by '
        'default',
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help='insist on averaged weights; where there are some (EMAHook), '
        'they are exported anyway',
    )
    parser.add_argument(
        '--student',
        metavar='NAME',
        help='which of several students that were trained together; the best '
        'of the last validation by default',
    )
    parser.add_argument(
        '--branch',
        type=int,
        default=0,
        metavar='K',
        help='branch of a student of ONE to export; 0, the student itself, '
        'by default',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value',
    )
    return parser.parse_args()


def main() -> None:
    """Export."""
    args = parse_args()
    try:
        if not os.path.isfile(args.config):
            raise FileNotFoundError(f'there is no config {args.config}')
        config = Config.fromfile(args.config)
        if args.cfg_options is not None:
            config.merge_from_dict(args.cfg_options)
        export = export_student(
            config,
            args.checkpoint,
            args.out,
            onnx=args.onnx,
            opset=args.opset,
            input_size=args.input_size,
            ema=args.ema,
            branch=args.branch,
            name=args.student,
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        sys.exit(f'error: {error}')
    height, width = export.input_size
    if export.student is not None:
        print(f'student {export.student}')
    print(
        f'{export.num_classes} classes, images of {height}x{width} pixels\n'
        f'checkpoint: {export.checkpoint}\n'
        f'config:     {export.config}'
    )
    if export.onnx is not None:
        print(
            f'ONNX:       {export.onnx} (largest deviation in onnxruntime, '
            f'batches of 1 and 5: {export.deviation:.1e} of the largest '
            f'logit)'
        )
    if export.packages:
        print(
            f'note: the student is not made of mmpretrain alone, so loading '
            f'it needs {", ".join(export.packages)}'
        )


if __name__ == '__main__':
    main()
