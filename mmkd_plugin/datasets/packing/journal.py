"""What of a file is finished, and who is writing it."""

import fcntl
import json
import os
import time
from typing import Optional

LOCK_PATIENCE = 2.0  # seconds


class Journal:
    """The list of finished chunks, locked as long as it is open.

    A line is a JSON object: first the header, then ``chunk``, ``crc`` and
    ``bad`` of every finished chunk, at last ``assembled``, after which only
    the renaming of the result is missing.

    Args:
        path (str): The file. It is made if it does not exist, and removed
            by :meth:`close` if it is still empty.

    Raises:
        BlockingIOError: If another process has it open.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = self._open_locked(path)
        self.header: Optional[dict] = None
        self.chunks: dict = {}
        self.assembled = False
        self._read()

    @staticmethod
    def _open_locked(path: str):
        # The workers of a packer that was just killed hold its lock, too,
        # until they have noticed.
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            file = os.fdopen(descriptor, 'r+b')
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The last owner may have removed the file between opening
                # and locking it here.
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return file
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    file.close()
                    raise BlockingIOError(
                        'another process is packing into '
                        f'{path.removesuffix(".part.json")}'
                    ) from exc
            except FileNotFoundError:
                pass
            file.close()
            time.sleep(0.02)

    def _read(self) -> None:
        end = 0
        for line in self.file:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b'\n') or not isinstance(record, dict):
                break
            if end == 0:
                self.header = record
            elif 'chunk' in record:
                self.chunks[record['chunk']] = record
            self.assembled = record.get('assembled', False)
            end += len(line)
        # A line that was cut off must not run into the next one.
        self.file.seek(end)
        if self.header is not None:
            self.file.truncate()

    def start(self, header: dict) -> None:
        """Forget everything and begin anew."""
        self.file.seek(0)
        self.file.truncate()
        self.header, self.chunks = header, {}
        self.append(header)

    def append(self, record: dict) -> None:
        """Add a line."""
        self.file.write(json.dumps(record).encode() + b'\n')
        self.file.flush()
        if 'chunk' in record:
            self.chunks[record['chunk']] = record

    def bad_images(self, chunk_images: int) -> dict:
        """Get the bad images by their position in the listing."""
        return {
            index * chunk_images + position: reason
            for index in sorted(self.chunks)
            for position, reason in self.chunks[index]['bad']
        }

    def remove(self) -> None:
        """Remove the file."""
        os.unlink(self.path)

    def close(self) -> None:
        """Give the lock back."""
        if os.fstat(self.file.fileno()).st_size == 0:
            self.remove()
        self.file.close()
