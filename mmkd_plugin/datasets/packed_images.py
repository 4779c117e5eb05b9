"""Images that ``tools/pack_dataset.py`` has packed into one file."""

import hashlib
import json
import os
import struct
import zipfile
from typing import Optional

import numpy as np
from mmengine.registry import DATASETS

from .array_images import ArrayImages

FORMAT = 'mmkd_plugin.packed_images'
FORMAT_VERSION = 1


@DATASETS.register_module()
class PackedImages(ArrayImages):
    """Images of one size in a file of ``tools/pack_dataset.py``.

    The file is an uncompressed ``.npz``, so ``numpy.load`` reads it as well.
    Here its pixels are mapped into memory instead: opening takes no time
    whatever the size, only pages that are used are read, and all processes
    of a machine share them. A copy of the data set that is sent to another
    process opens the file again.

    Args:
        data_file (str): The packed file.
        with_label (bool): Whether to give the labels, which are in the file
            if it was packed with ``--labels``. Without them ``metainfo`` has
            no ``classes`` either. Defaults to False.

    Raises:
        FileNotFoundError: If there is no such file. The message has the
            command that makes it.
        ValueError: If it is not a complete packed file, holds no image, or
            holds no labels although ``with_label`` is set.
    """

    def __init__(self, data_file: str, with_label: bool = False) -> None:
        self.data_file = os.path.abspath(data_file)
        self.with_label = with_label
        self._command = (
            'python tools/pack_dataset.py SRC --size 32 --out '
            f'{data_file}{" --labels" if with_label else ""}'
        )
        images, labels, classes, self._fingerprint = self._open()
        super().__init__(images, labels, classes)

    def fingerprint(self) -> str:
        """Name the content of the data set without reading the pixels.

        Returns:
            str: A SHA-256, in hex, over the shape, the digest of the pixels
            that the packer has stored, the check sum of the pixels in the
            zip directory, and the labels if they are given.
        """
        return self._fingerprint

    def _open(self) -> tuple:
        """Map the pixels and read the rest of the file.

        Returns:
            tuple: Images (np.memmap), labels (np.ndarray or None), classes
            (list[str] or None), fingerprint (str).
        """
        try:
            with open(self.data_file, 'rb') as file:
                try:
                    with zipfile.ZipFile(file) as archive:
                        return self._read(file, archive)
                except Exception as exc:
                    # Parsing a damaged file can raise anything.
                    raise ValueError(
                        f'{self.data_file} cannot be used: '
                        f'{str(exc) or repr(exc)}. Expected a complete file '
                        f'made by `{self._command}`'
                    ) from exc
        except FileNotFoundError as exc:
            raise FileNotFoundError(
                f'{self.data_file} does not exist. Make it with '
                f'`{self._command}`'
            ) from exc
        except IsADirectoryError as exc:
            raise ValueError(
                f'{self.data_file} is a folder. Pack it first: '
                '`python tools/pack_dataset.py '
                f'{self.data_file} --size 32 --out FILE.npz`'
            ) from exc

    def _read(self, file, archive: zipfile.ZipFile) -> tuple:
        meta = json.loads(str(_read_member(archive, 'meta.npy')))
        if not isinstance(meta, dict) or meta.get('format') != FORMAT:
            raise ValueError(f'its meta.npy does not say {FORMAT!r}')
        if meta['version'] != FORMAT_VERSION:
            raise ValueError(
                f'it has version {meta["version"]!r} of the format, but this '
                f'program reads version {FORMAT_VERSION}'
            )
        info = archive.getinfo('images.npy')
        images = _map_member(file, info)
        digest = hashlib.sha256(
            f'{images.shape} {meta["sha256"]} {info.CRC:08x}'.encode()
        )
        labels: Optional[np.ndarray] = None
        classes: Optional[list] = None
        if self.with_label:
            if 'labels.npy' not in archive.namelist():
                raise ValueError('it holds no labels (with_label=True)')
            labels = _read_member(archive, 'labels.npy')
            classes = _read_member(archive, 'classes.npy').tolist()
            if labels.shape != images.shape[:1]:
                raise ValueError(
                    f'labels of the shape {labels.shape} do not fit '
                    f'{len(images)} images'
                )
            if labels.min() < 0 or labels.max() >= len(classes):
                raise ValueError(
                    f'labels from {labels.min()} to {labels.max()} do not '
                    f'fit {len(classes)} classes'
                )
            digest.update(labels.tobytes())
        return images, labels, classes, digest.hexdigest()

    def __getstate__(self) -> dict:
        state = self.__dict__.copy()
        del state['images'], state['labels']
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.images, self.labels, _, fingerprint = self._open()
        if fingerprint != self._fingerprint:
            raise RuntimeError(
                f'{self.data_file} has been replaced by another file since '
                'the data set was opened'
            )


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _map_member(file, info: zipfile.ZipInfo) -> np.memmap:
    """Map the uint8 array that lies uncompressed in a zip file.

    Args:
        file (BinaryIO): The zip file.
        info (zipfile.ZipInfo): The entry of the array.

    Returns:
        np.memmap: The array, read-only.

    Raises:
        ValueError: If the entry cannot be mapped, or holds no image.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f'{info.filename} is compressed')
    file.seek(info.header_offset)
    signature, name_size, extra_size = struct.unpack('<4s22xHH', file.read(30))
    if signature != b'PK\x03\x04':
        raise ValueError(f'{info.filename} is not where it should be')
    start = file.seek(name_size + extra_size, os.SEEK_CUR)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f'{info.filename} has npy version {version}')
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype != np.uint8 or fortran_order or len(shape) != 4:
        raise ValueError(
            f'{info.filename} holds {dtype} of the shape {shape}, not uint8 '
            'of the shape (N, H, W, 3)'
        )
    if shape[0] == 0:
        raise ValueError(f'{info.filename} holds no image')
    offset = file.tell()
    num_bytes = shape[0] * shape[1] * shape[2] * shape[3]
    if (
        offset - start + num_bytes != info.file_size
        or offset + num_bytes > os.fstat(file.fileno()).st_size
    ):
        raise ValueError(f'{info.filename} is not {num_bytes} bytes long')
    return np.memmap(
        file, dtype=np.uint8, mode='r', offset=offset, shape=shape
    )
