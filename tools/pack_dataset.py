"""Pack a folder tree of images into one memory-mapped file."""

import argparse
import sys
from collections.abc import Sequence
from typing import Optional

from mmkd_plugin.datasets.packing import EXTENSIONS, FITS, pack_folder


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Pack a folder tree of images into one file, which the '
        'data set PackedImages maps into memory and numpy.load reads. '
        'Started again after an interruption, it goes on where it stopped.',
        epilog=f'Files with the extensions {" ".join(EXTENSIONS)} are packed. '
        'Those that cannot be read are skipped and listed in the report.',
    )
    parser.add_argument('src', metavar='SRC', help='the folder of images')
    parser.add_argument(
        '--size', type=int, required=True, help='side of the packed images'
    )
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='the .npz file to write'
    )
    parser.add_argument(
        '--labels',
        action='store_true',
        help='store labels: each first-level folder of SRC is a class',
    )
    parser.add_argument(
        '--fit',
        choices=FITS,
        default='stretch',
        help='squeeze the whole image into the square, or crop its centre '
        '(default: stretch)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        help='number of processes (default: one for each available CPU)',
    )
    parser.add_argument(
        '--report',
        metavar='FILE',
        help='list of the skipped images, a JSON object a line '
        '(default: that of --out with .report.txt added)',
    )
    parser.add_argument(
        '--force', action='store_true', help='replace FILE if it exists'
    )
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the tool.

    Args:
        argv (Sequence[str], optional): The arguments. Defaults to None,
            those of the process.

    Returns:
        int: The exit status.
    """
    args = parse_args(argv)
    # A path may hold bytes that the terminal's encoding does not have.
    sys.stdout.reconfigure(errors='backslashreplace')
    try:
        pack_folder(**vars(args))
    except KeyboardInterrupt:
        print(
            '\nInterrupted. The same command goes on from here.',
            file=sys.stderr,
        )
        return 130
    except (OSError, RuntimeError, ValueError) as exc:
        print(f'pack_dataset.py: error: {exc}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
