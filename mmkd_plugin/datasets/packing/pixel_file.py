"""The decoded pixels on their way into the packed file."""

import os
from collections.abc import Container, Iterator

import numpy as np

from .outputs import check_space

CHUNK_IMAGES = 64
CHUNK_BYTES = 8 << 20


class PixelFile:
    """The pixels of all listed images, bad ones included, chunk by chunk.

    Args:
        path (str): The file.
        num_images (int): How many there are.
        size (int): Their side in pixels.
    """

    def __init__(self, path: str, num_images: int, size: int) -> None:
        self.path = path
        self.num_images = num_images
        self.size = size
        self.image_bytes = size * size * 3
        self.chunk_images = max(
            1, min(CHUNK_IMAGES, CHUNK_BYTES // self.image_bytes)
        )
        self.num_chunks = -(-num_images // self.chunk_images)

    def positions(self, index: int) -> slice:
        """Tell which images are in a chunk."""
        start = index * self.chunk_images
        return slice(start, min(start + self.chunk_images, self.num_images))

    def count(self, index: int) -> int:
        """Tell how many images are in a chunk."""
        where = self.positions(index)
        return where.stop - where.start

    def check_space(self) -> None:
        """Check that this file and the result fit onto the disk.

        Raises:
            OSError: If they do not.
        """
        needed = 2 * self.num_images * (self.image_bytes + 8) + (1 << 20)
        if os.path.exists(self.path):
            needed -= os.stat(self.path).st_blocks * 512
        check_space(
            self.path,
            needed,
            self.num_images,
            ', half of it for a while only',
        )

    def is_complete(self) -> bool:
        """Tell whether the file is there in its full length."""
        try:
            length = os.path.getsize(self.path)
        except FileNotFoundError:
            return False
        return length == self.num_images * self.image_bytes

    def create(self) -> None:
        """Make the file, empty but of full length."""
        with open(self.path, 'wb') as file:
            file.truncate(self.num_images * self.image_bytes)

    def read(self, index: int, file) -> bytes:
        """Read a chunk."""
        file.seek(self.positions(index).start * self.image_bytes)
        return file.read(self.count(index) * self.image_bytes)

    def read_all(self, bad: Container) -> Iterator[bytes]:
        """Read all images but the bad ones.

        Args:
            bad (Container[int]): Positions of those to leave out.

        Yields:
            bytes: The pixels of those in a chunk.
        """
        with open(self.path, 'rb') as file:
            for index in range(self.num_chunks):
                where = self.positions(index)
                good = [
                    position - where.start
                    for position in range(where.start, where.stop)
                    if position not in bad
                ]
                rows = np.frombuffer(self.read(index, file), np.uint8)
                yield rows.reshape(-1, self.image_bytes)[good].tobytes()

    def write(self, index: int, pixels: bytes, file) -> None:
        """Write a chunk."""
        file.seek(self.positions(index).start * self.image_bytes)
        file.write(pixels)
        file.flush()
