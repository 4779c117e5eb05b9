"""Files that are there as a whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def atomic_write(path: str) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name when complete.

    Args:
        path (str): The file. Its folder must exist.

    Yields:
        BinaryIO: The file to write to.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'there is no folder {folder} to write to')
    handle, temporary = tempfile.mkstemp(
        dir=folder, prefix=f'.{os.path.basename(path)}.'
    )
    try:
        with os.fdopen(handle, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
