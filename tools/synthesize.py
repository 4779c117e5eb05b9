"""Make images with a generator of MosaicKD, packed for other methods."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

import numpy as np
import torch
from mmengine.utils import ProgressBar

from mmkd_plugin.datasets.packing import pack_images
from mmkd_plugin.engine.generator_export import load_generator
from mmkd_plugin.engine.synthesis import synthesize
from mmkd_plugin.version import __version__


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Make images with a generator of MosaicKD and pack them '
        'into one file for the data set PackedImages. The same generator and '
        'seed give the same file.',
    )
    parser.add_argument(
        'checkpoint',
        help='checkpoint of a run with MosaicGeneratorHook, or what '
        'export_generator.py made of it',
    )
    parser.add_argument(
        '--num', type=int, required=True, help='how many images to make'
    )
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='the .npz file to write'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of the noise (default: 0)'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=256,
        help='how many images are made at a time (default: 256)',
    )
    parser.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where they are made (default: cuda if there is one)',
    )
    parser.add_argument(
        '--force', action='store_true', help='replace FILE if it exists'
    )
    return parser.parse_args(argv)


def show_progress(
    blocks: Iterable[np.ndarray], num_images: int
) -> Iterator[np.ndarray]:
    """Pass on blocks of images, and show how many there were."""
    bar = ProgressBar(num_images, file=sys.stdout)
    for block in blocks:
        yield block
        bar.update(len(block))
    sys.stdout.write('\n')


def run(args: argparse.Namespace) -> None:
    """Make the images and pack them.

    Args:
        args (argparse.Namespace): Of :func:`parse_args`.

    Raises:
        Exception: As the functions that do it.
    """
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ValueError('there is no CUDA device here, take --device cpu')
    generator, meta = load_generator(args.checkpoint)
    if generator.out_channels != 3:
        raise ValueError(
            f'packed images have 3 channels, but the generator of '
            f'{args.checkpoint} makes {generator.out_channels}'
        )
    blocks = synthesize(
        generator,
        args.num,
        seed=args.seed,
        batch_size=args.batch_size,
        device=args.device,
    )
    pack_images(
        args.out,
        show_progress(blocks, args.num),
        num_images=args.num,
        size=generator.image_size,
        source=dict(
            generator=meta['generator'],
            checkpoint=meta['checkpoint'],
            iteration=meta['iteration'],
            seed=args.seed,
            mmkd_plugin_version=__version__,
        ),
        force=args.force,
    )


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
        run(args)
    except KeyboardInterrupt:
        print('\nInterrupted. Nothing was written.', file=sys.stderr)
        return 130
    except torch.OutOfMemoryError as error:
        print(
            f'\nsynthesize.py: error: {error}. Give it a smaller --batch-size',
            file=sys.stderr,
        )
        return 1
    except (OSError, RuntimeError, ValueError) as error:
        print(f'synthesize.py: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
