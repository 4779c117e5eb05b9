"""Pack images that a program makes."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Union

import numpy as np
from mmengine.logging import print_log

from mmkd_plugin.utils.checks import check_count

from ..packed_images import FORMAT, FORMAT_VERSION
from .archive import read_meta, sync_folder, write_npz
from .journal import Journal
from .outputs import (
    check_no_folder,
    check_replaceable,
    check_space,
    missing_folders,
)


def pack_images(
    out: Union[str, os.PathLike],
    blocks: Iterable[np.ndarray],
    *,
    num_images: int,
    size: int,
    source: dict,
    force: bool = False,
) -> dict:
    """Pack images into one file as they come.

    The file is that of :func:`~mmkd_plugin.datasets.packing.pack_folder`
    without labels, and depends on the images and on ``source`` alone, not on
    how many come at a time. Only one block is in memory. ``out`` appears
    when it is complete; until then the images are in ``OUT.part.npz``, which
    is removed if making them fails, and written over after a kill.

    Args:
        out (str or os.PathLike): The file to write.
        blocks (Iterable[np.ndarray]): Some images each, uint8, RGB, shape
            ``(n, size, size, 3)``. Nothing is asked of it before all else
            has been checked.
        num_images (int): How many come in all.
        size (int): Their side in pixels.
        source (dict): What made them, to be stored in ``meta``. Anything
            that JSON can hold.
        force (bool): Whether ``out`` may be replaced. Defaults to False.

    Returns:
        dict: What is stored as ``meta``: ``format``, ``version``, ``size``,
        ``num_images``, ``source`` and ``sha256`` (of the pixels, in hex).

    Raises:
        FileNotFoundError: If the folder of ``out`` is missing.
        FileExistsError: If ``out`` exists and ``force`` is not set, or if an
            interrupted packing of a folder into it can be continued.
        IsADirectoryError: If ``out`` is a folder.
        BlockingIOError: If another process is packing into ``out``.
        OSError: If there is not enough space, or the file cannot be written.
        ValueError: If an option is wrong, if a block is no such array, or if
            there are more or fewer images than ``num_images``.
    """
    start_time = time.monotonic()
    out = os.fspath(out)
    _check_options(out, num_images, size, source)
    check_replaceable(out, force)
    temporary, record = f'{out}.part.npz', f'{out}.part.json'
    # It stays empty, but locks out all others who pack into this file.
    with closing(Journal(record)) as journal:
        if journal.header is not None:
            # Its last step would take this result for its own.
            raise FileExistsError(
                f'{record} says that packing a folder into {out} was '
                'interrupted. Let tools/pack_dataset.py go on with it, or '
                'remove that file'
            )
        # What a killed process left does not take space twice.
        if os.path.exists(temporary):
            os.unlink(temporary)
        num_bytes = num_images * size * size * 3 + (1 << 20)
        check_space(out, num_bytes, num_images)
        meta = dict(
            format=FORMAT,
            version=FORMAT_VERSION,
            size=size,
            num_images=num_images,
            source=source,
        )
        try:
            pixels = _checked(blocks, num_images, size)
            write_npz(temporary, pixels, num_images, size, meta)
            os.replace(temporary, out)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(os.path.dirname(out))
    seconds = time.monotonic() - start_time
    print_log(
        f'{out}: {num_images} images of {size}x{size} pixels, '
        f'{os.path.getsize(out) / 1e6:.1f} MB, {seconds:.0f} s'
    )
    return read_meta(out)


def _check_options(out: str, num_images: int, size: int, source: dict) -> None:
    check_count('num_images', num_images)
    check_count('size', size)
    if not isinstance(source, dict):
        raise ValueError(f'source must be a dict, but got {source!r}')
    try:
        json.dumps(source)
    except (TypeError, ValueError) as exc:
        raise ValueError(f'source must fit into JSON: {exc}') from exc
    missing = missing_folders(out)
    if missing:
        raise FileNotFoundError(missing[0])
    check_no_folder(out)


def _checked(
    blocks: Iterable[np.ndarray], num_images: int, size: int
) -> Iterator[bytes]:
    shape = (size, size, 3)
    count = 0
    for block in blocks:
        if (
            not isinstance(block, np.ndarray)
            or block.dtype != np.uint8
            or block.shape[1:] != shape
        ):
            got = type(block).__name__
            if isinstance(block, np.ndarray):
                got = f'{block.dtype} of the shape {block.shape}'
            raise ValueError(
                f'blocks must be uint8 arrays of the shape '
                f'(n, {size}, {size}, 3), but got {got}'
            )
        count += len(block)
        if count > num_images:
            raise ValueError(
                f'{num_images} images were to be packed, but {count} or more '
                'came'
            )
        yield block.tobytes()
    if count < num_images:
        raise ValueError(
            f'{num_images} images were to be packed, but only {count} came'
        )
