"""Turn a published checkpoint into one of this plugin's networks.

SRC is a file of RepDistiller, mdistiller or akamaster/pytorch_resnet_cifar10,
such as ckpt_epoch_240.pth. docs/convert.md lists the networks.
"""

import argparse
import os

from mmengine.config import Config, DictAction

from mmkd_plugin.engine.convert import convert_checkpoint
from mmkd_plugin.engine.preflight import fail


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'config',
        help='config of the classifier, or of a distillation, whose teacher '
        'is taken',
    )
    parser.add_argument('source', metavar='SRC', help='published checkpoint')
    parser.add_argument('out', metavar='OUT.pth', help='checkpoint to write')
    parser.add_argument(
        '--force', action='store_true', help='replace OUT.pth if it exists'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value',
    )
    return parser.parse_args()


def main() -> None:
    """Convert."""
    args = parse_args()
    try:
        if not os.path.isfile(args.config):
            raise FileNotFoundError(f'there is no config file {args.config}')
        config = Config.fromfile(args.config)
        if args.cfg_options is not None:
            config.merge_from_dict(args.cfg_options)
        conversion = convert_checkpoint(
            config, args.source, args.out, force=args.force
        )
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        ImportError,
        SyntaxError,
    ) as error:
        fail(error)
    print(conversion.report())


if __name__ == '__main__':
    main()
