"""Write the generator of MosaicKD into a file of its own, and as ONNX."""

import argparse
import sys
from collections.abc import Sequence
from typing import Optional

from mmkd_plugin.engine.generator_export import export_generator


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'checkpoint', help='checkpoint of a run with MosaicGeneratorHook'
    )
    parser.add_argument(
        'out', metavar='OUT.pth', help='generator to write, for synthesize.py'
    )
    parser.add_argument(
        '--onnx',
        metavar='OUT.onnx',
        help='also write the images of standard normal noise as ONNX',
    )
    parser.add_argument(
        '--force', action='store_true', help='replace files that exist'
    )
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Export.

    Args:
        argv (Sequence[str], optional): The arguments. Defaults to None,
            those of the process.

    Returns:
        int: The exit status.
    """
    args = parse_args(argv)
    try:
        export = export_generator(**vars(args))
    except (OSError, ValueError, ImportError) as error:
        print(f'export_generator.py: error: {error}', file=sys.stderr)
        return 1
    network = export.meta['generator']['type']
    iteration = export.meta['iteration']
    print(
        f'{network} of {export.meta["checkpoint"]}'
        f'{"" if iteration is None else f", iteration {iteration}"}\n'
        f'generator: {export.checkpoint}'
    )
    if export.onnx is not None:
        checked = (
            'not compared with PyTorch: onnxruntime is not installed'
            if export.deviation is None
            else f'largest deviation in onnxruntime, batches of 1 and 5: '
            f'{export.deviation:.1e} of the brightest pixel'
        )
        print(f'ONNX:      {export.onnx} ({checked})')
    return 0


if __name__ == '__main__':
    sys.exit(main())
