"""Print a config with all of its bases and overrides merged."""

import argparse
import os
import sys

from mmengine.config import Config, DictAction
from mmengine.fileio import dump

SUFFIXES = ('.py', '.json', '.yml', '.yaml')


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value; nested keys '
        'have dots, lists look like key="[a,b]"',
    )
    parser.add_argument(
        '--save-path',
        metavar='FILE',
        help=f'also write it to this file ({", ".join(SUFFIXES)})',
    )
    return parser.parse_args()


def save(config: Config, path: str) -> None:
    """Write a config in the format that the suffix names."""
    suffix = os.path.splitext(path)[1]
    if suffix not in SUFFIXES:
        raise ValueError(
            f'--save-path must end in one of {", ".join(SUFFIXES)}, but got '
            f'{path}'
        )
    # Not at the top: the package takes seconds to import.
    from mmkd_plugin.utils.atomic import atomic_write

    if suffix == '.py':
        text = config.pretty_text
    else:
        text = dump(config.to_dict(), file_format=suffix[1:])
    with atomic_write(path) as file:
        file.write(text.encode())


def main() -> None:
    """Print."""
    args = parse_args()
    try:
        if not os.path.isfile(args.config):
            raise FileNotFoundError(f'there is no config {args.config}')
        # What the config imports is not needed to print it.
        config = Config.fromfile(args.config, import_custom_modules=False)
        if args.cfg_options is not None:
            config.merge_from_dict(args.cfg_options)
        if args.save_path is not None:
            save(config, args.save_path)
    except (OSError, ValueError, TypeError, KeyError, SyntaxError) as error:
        sys.exit(f'error: {error}')
    print(config.pretty_text)


if __name__ == '__main__':
    main()
