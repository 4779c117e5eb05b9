"""Decoding in several processes."""

import errno
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from PIL import Image, UnidentifiedImageError

from .decoding import load_image

SOURCE_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ESTALE)


def decode_chunks(tasks: Iterable, workers: int) -> Iterator:
    """Decode in several processes.

    Args:
        tasks (Iterable[tuple]): Arguments of :func:`_decode_chunk`.
        workers (int): Number of processes; 1 decodes in this one.

    Yields:
        tuple: What :func:`_decode_chunk` returns, in any order.
    """
    if workers == 1:
        for task in tasks:
            yield _decode_chunk(*task)
        return
    tasks = iter(tasks)
    pool = ProcessPoolExecutor(workers, initializer=_init_worker)
    try:
        # Few enough that pixels do not pile up where writing is slow.
        running = {
            pool.submit(_decode_chunk, *task)
            for task in itertools.islice(tasks, 3 * workers)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for task in itertools.islice(tasks, len(done)):
                running.add(pool.submit(_decode_chunk, *task))
            for future in done:
                yield future.result()
    except BrokenProcessPool as exc:
        raise RuntimeError(
            'a worker process died, perhaps for want of memory. The same '
            'command goes on where it stopped; give it fewer --workers'
        ) from exc
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker() -> None:
    # Ctrl-C reaches all processes; the parent ends the workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def exit_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    # A pool does not notice that its owner was killed.
    threading.Thread(target=exit_with_parent, daemon=True).start()


def _decode_chunk(
    index: int, src: str, paths: Sequence, size: int, fit: str
) -> tuple:
    """Decode some images.

    Args:
        index (int): Number of the chunk.
        src (str): The folder.
        paths (Sequence[str]): The images, relative to it.
        size (int): Side of the result, in pixels.
        fit (str): ``'stretch'`` or ``'crop'``.

    Returns:
        tuple: ``index``, the pixels (bytes, zeros where an image is bad),
        and the position and reason of every bad image (list).

    Raises:
        OSError: If one of the images, or the disk it lies on, is gone.
    """
    pixels = np.zeros((len(paths), size, size, 3), dtype=np.uint8)
    bad = []
    for position, path in enumerate(paths):
        file = os.path.join(src, path)
        try:
            pixels[position] = load_image(file, size, fit)
        except Exception as exc:  # a broken file can raise anything
            if isinstance(exc, OSError) and exc.errno in SOURCE_GONE:
                # Packing what is left would quietly give a smaller set.
                raise OSError(
                    f'{file} disappeared while {src} was packed '
                    f'({exc.strerror})'
                ) from exc
            bad.append((position, _reason(exc, file)))
    return index, pixels.tobytes(), bad


def _reason(exc: Exception, file: str) -> str:
    if isinstance(exc, UnidentifiedImageError):
        empty = os.path.getsize(file) == 0
        return 'empty file' if empty else 'not an image that Pillow can read'
    if isinstance(
        exc, (Image.DecompressionBombError, Image.DecompressionBombWarning)
    ):
        return f'too many pixels, more than {Image.MAX_IMAGE_PIXELS}'
    if isinstance(exc, OSError) and exc.errno:
        return exc.strerror or errno.errorcode.get(exc.errno, 'OSError')
    return f'{type(exc).__name__}: {exc}'
