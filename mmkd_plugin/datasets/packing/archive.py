"""The packed file itself."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Optional

import numpy as np


def write_npz(
    path: str,
    pixels: Iterable[bytes],
    num_images: int,
    size: int,
    meta: dict,
    arrays: Optional[dict] = None,
) -> None:
    """Write a packed file and flush it to the disk.

    Args:
        path (str): The file.
        pixels (Iterable[bytes]): Those of some images at a time.
        num_images (int): How many there are in all.
        size (int): Their side in pixels.
        meta (dict): To be stored, together with the digest of the pixels.
        arrays (dict[str, np.ndarray], optional): Further members. Defaults
            to None.
    """
    header = dict(
        descr='|u1', fortran_order=False, shape=(num_images, size, size, 3)
    )
    digest = hashlib.sha256()
    with open(path, 'wb') as file:
        with zipfile.ZipFile(file, 'w') as archive:
            with _member(archive, 'images') as member:
                np.lib.format.write_array_header_1_0(member, header)
                for data in pixels:
                    digest.update(data)
                    member.write(data)
            meta = dict(meta, sha256=digest.hexdigest())
            arrays = dict(meta=np.array(json.dumps(meta)), **(arrays or {}))
            for name, array in arrays.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(
                        member, array, allow_pickle=False
                    )
        file.flush()
        os.fsync(file.fileno())


def read_meta(path: str) -> dict:
    """Read what is stored as ``meta`` in a packed file."""
    with np.load(path) as archive:
        return json.loads(str(archive['meta']))


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator:
    # The default of ZipInfo is a fixed date, which keeps the bytes equal.
    info = zipfile.ZipInfo(f'{name}.npy')
    with archive.open(info, 'w', force_zip64=True) as member:
        yield member


def sync_folder(folder: str) -> None:
    """Flush the names of the files in a folder to the disk."""
    descriptor = os.open(folder or '.', os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
