"""Pack a folder tree of images into the file of ``PackedImages``."""

import errno
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import posixpath
import shutil
import signal
import sys
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Optional

import numpy as np
from mmengine.logging import print_log
from mmengine.utils import ProgressBar
from PIL import Image, UnidentifiedImageError, features

from .packed_images import FORMAT, FORMAT_VERSION

EXTENSIONS = (
    '.bmp',
    '.gif',
    '.jpeg',
    '.jpg',
    '.pgm',
    '.png',
    '.ppm',
    '.tif',
    '.tiff',
    '.webp',
)
FITS = ('stretch', 'crop')
CHUNK_IMAGES = 64
CHUNK_BYTES = 8 << 20
LOCK_PATIENCE = 2.0  # seconds
SOURCE_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ESTALE)

EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        paths (list[str]): The images, relative to the folder, with ``/``
            between the parts, sorted.
        skipped (dict[str, str]): What is passed over although it looks like
            a part of the data set (links out of the folder, links to
            folders, unreadable folders), with the reason.
        classes (list[str]): The folders of the first level, sorted.
        digest (str): SHA-256 over all of that and over the sizes and
            modification times of the images, in hex.
    """

    paths: list
    skipped: dict
    classes: list
    digest: str


def list_images(src: str) -> Listing:
    """List the images below a folder.

    An image is a regular file, or a link to one inside of the folder, whose
    name ends with one of ``EXTENSIONS`` in any case. As in mmengine, names
    that begin with a dot are passed over.

    Args:
        src (str): The folder.

    Returns:
        Listing: What was found.
    """
    root = os.path.realpath(src)
    found, classes, skipped = [], [], {}
    folders = ['']
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                visible = [e for e in entries if not e.name.startswith('.')]
        except OSError as exc:
            if folder == '':
                raise
            skipped[folder] = f'unreadable folder: {exc.strerror}'
            continue
        for entry in visible:
            name = posixpath.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
                if folder == '':
                    classes.append(name)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                skipped[name] = 'link to a folder, not followed'
            elif name.lower().endswith(EXTENSIONS):
                reason = _reason_to_skip(entry, root)
                if reason is not None:
                    skipped[name] = reason
                    continue
                stat = entry.stat()
                found.append((name, stat.st_size, stat.st_mtime_ns))
    found.sort()
    classes.sort()
    digest = hashlib.sha256()
    for line in itertools.chain(found, classes, sorted(skipped.items())):
        digest.update(json.dumps(line).encode() + b'\n')
    paths = [name for name, _, _ in found]
    return Listing(paths, skipped, classes, digest.hexdigest())


def _reason_to_skip(entry: os.DirEntry, root: str) -> Optional[str]:
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if os.path.commonpath([root, target]) != root:
            return 'link that leads out of the folder'
        if not os.path.exists(target):
            return 'link that leads nowhere'
    # A pipe or a device named like an image would block the worker for ever.
    if not os.path.isfile(entry.path):
        return 'not a regular file'
    return None


def load_image(path: str, size: int, fit: str = 'stretch') -> np.ndarray:
    """Read an image as a small square one.

    * Of an animation the first frame is taken.
    * Where the source is transparent the result is black, by compositing.
    * 16 bits a channel are reduced to the upper 8.
    * Pixels are averaged (Pillow's BOX filter, the one of downsampled
      ImageNet, https://arxiv.org/abs/1707.08819) where both sides shrink to
      a half or less, and interpolated with BICUBIC else. A JPEG file is
      decoded at the lowest resolution that is at least twice ``size``.
    * The EXIF orientation is respected, colour profiles are not.

    Args:
        path (str): The file.
        size (int): Side of the result, in pixels.
        fit (str): ``'stretch'`` squeezes the whole image into the square,
            ``'crop'`` takes its central square. Defaults to 'stretch'.

    Returns:
        np.ndarray: RGB, shape ``(size, size, 3)``, dtype uint8.

    Raises:
        Exception: Any, if the file cannot be decoded. An image with more
            pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` is refused with
            ``PIL.Image.DecompressionBombWarning``.
    """
    with warnings.catch_warnings(), open(path, 'rb') as file:
        warnings.simplefilter('ignore')
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        image = Image.open(file)
        image.draft(None, (2 * size, 2 * size))
        image.load()
        # TIFF files are turned upright by load() itself; whether the tag is
        # still there afterwards depends on Pillow's version.
        turn = None if image.format == 'TIFF' else _exif_turn(image)
        image = _to_rgb(image)
        width, height = image.size
        side = min(width, height)
        box = None
        if fit == 'crop':
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        resample = (
            Image.Resampling.BOX
            if side >= 2 * size
            else Image.Resampling.BICUBIC
        )
        image = image.resize((size, size), resample, box=box)
        if turn is not None:
            image = image.transpose(turn)
        return np.asarray(image)


def _exif_turn(image: Image.Image) -> Optional[Image.Transpose]:
    try:
        return UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION))
    except Exception:
        # Pixels that can be read are not lost to a broken EXIF block, and
        # parsing one can raise anything.
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == 'RGB' and 'transparency' not in image.info:
        return image
    if image.mode.startswith('I'):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError('integers of more than 16 bits have no range')
        return Image.fromarray((values >> 8).astype(np.uint8)).convert('RGB')
    if image.mode == 'F':
        raise ValueError('floating-point pixels have no range')
    if 'transparency' in image.info or image.mode in (
        'LA',
        'La',
        'PA',
        'RGBA',
        'RGBa',
    ):
        image = image.convert('RGBA')
        black = Image.new('RGBA', image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert('RGB')


def pack_folder(
    src: str,
    out: str,
    *,
    size: int,
    fit: str = 'stretch',
    labels: bool = False,
    workers: Optional[int] = None,
    report: Optional[str] = None,
    force: bool = False,
) -> dict:
    """Pack the images below a folder into one file.

    The file is an uncompressed ``.npz`` with the members ``images`` (uint8,
    ``(N, size, size, 3)``, RGB, in the order of the sorted paths), ``meta``
    (a JSON string) and, with ``labels``, ``labels`` (int64, ``(N,)``) and
    ``classes`` (strings). It depends only on the tree and on the options,
    not on the number of workers or on interruptions.

    Images that cannot be read are left out and listed, one JSON object
    with ``path`` and ``reason`` a line, in the report. What is finished is
    kept in ``OUT.part`` and ``OUT.part.json``; after an interruption of any
    kind the same call goes on from there, unless the tree or the options
    have changed. ``OUT`` appears only when it is complete.

    Args:
        src (str): The folder. See :func:`list_images` for what is an image.
        out (str): The file to write.
        size (int): Side of the packed images, in pixels.
        fit (str): ``'stretch'`` or ``'crop'``, see :func:`load_image`.
            Defaults to 'stretch'.
        labels (bool): Whether to store labels: the first-level folder of
            an image, by its place among the sorted names of all of them
            (as mmpretrain's ``CustomDataset`` does). Defaults to False.
        workers (int, optional): Number of processes that decode. Defaults
            to None, one for each CPU that this process may use.
        report (str, optional): The report to write. Defaults to None,
            which means ``OUT.report.txt``. Without a skipped image there
            is no report, and an older one is removed.
        force (bool): Whether ``out`` may be replaced. Defaults to False.

    Returns:
        dict: What is stored as ``meta``: ``format``, ``version``, ``size``,
        ``fit``, ``num_images``, ``num_bad`` (lines of the report) and
        ``sha256`` (of the pixels, in hex).

    Raises:
        FileNotFoundError: If ``src`` or the folder of ``out`` or ``report``
            is missing.
        FileExistsError: If ``out`` exists and ``force`` is not set.
        BlockingIOError: If another process is packing into ``out``.
        OSError: If there is not enough space, or a file cannot be written.
        ValueError: If an option is wrong, there is no image, none of the
            images can be read, or one has no class.
        RuntimeError: If a worker dies.
    """
    start_time = time.monotonic()
    src, out = os.fspath(src), os.fspath(out)
    report = f'{out}.report.txt' if report is None else os.fspath(report)
    if workers is None:
        workers = _available_cpus()
    _check_options(src, out, report, size, fit, workers)
    part, temporary = f'{out}.part', f'{out}.part.npz'
    record = f'{out}.part.json'
    if os.path.exists(out) and not force and not os.path.exists(record):
        raise FileExistsError(f'{out} exists. Use --force to replace it')
    with closing(_Journal(record)) as journal:
        print_log(f'Listing {src}')
        listing = list_images(src)
        header = dict(
            options=dict(
                format_version=FORMAT_VERSION,
                size=size,
                fit=fit,
                labels=labels,
                pillow=Image.__version__,
                libjpeg=features.version('jpg'),
            ),
            listing=listing.digest,
        )
        # Killed between the renaming of the result and the removal of the
        # journal: there is nothing left to do but to tidy up.
        finished = (
            journal.header == header
            and journal.assembled
            and os.path.exists(out)
            and not os.path.exists(temporary)
        )
        if not finished:
            if os.path.exists(out) and not force:
                raise FileExistsError(
                    f'{out} exists. Use --force to replace it'
                )
            _check_listing(src, listing, labels)
            pixels = _PixelFile(part, len(listing.paths), size)
            pixels.check_space()
            _resume_or_start(src, journal, header, pixels, temporary)
            _decode_missing(src, listing, size, fit, workers, journal, pixels)
            bad = journal.bad_images(pixels.chunk_images)
            reasons = {
                **{listing.paths[i]: reason for i, reason in bad.items()},
                **listing.skipped,
            }
            if len(bad) == len(listing.paths):
                os.unlink(part)
                journal.remove()
                raise ValueError(
                    f'none of the {len(bad)} images below {src} can be '
                    f'read: {_summary(reasons)}'
                )
            meta = dict(
                format=FORMAT,
                version=FORMAT_VERSION,
                size=size,
                fit=fit,
                num_images=len(listing.paths) - len(bad),
                num_bad=len(reasons),
            )
            _write_npz(
                temporary,
                pixels,
                bad,
                listing if labels else None,
                meta,
            )
            _write_report(report, reasons)
            journal.append(dict(assembled=True))
            os.replace(temporary, out)
            _sync_folder(os.path.dirname(out))
        if os.path.exists(part):
            os.unlink(part)
        journal.remove()
    with np.load(out) as archive:
        meta = json.loads(str(archive['meta']))
    seconds = time.monotonic() - start_time
    print_log(
        f'{out}: {meta["num_images"]} images of {size}x{size} pixels, '
        f'{os.path.getsize(out) / 1e6:.1f} MB, {seconds:.0f} s'
    )
    if meta['num_bad']:
        print_log(f'{meta["num_bad"]} skipped, listed in {report}')
    return meta


def _available_cpus() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_options(
    src: str, out: str, report: str, size: int, fit: str, workers: int
) -> None:
    if size < 1:
        raise ValueError(f'size must be at least 1, but got {size}')
    if fit not in FITS:
        raise ValueError(f'fit must be one of {FITS}, but got {fit!r}')
    if workers < 1:
        raise ValueError(f'workers must be at least 1, but got {workers}')
    missing = []
    if not os.path.exists(src):
        missing.append(f'the folder of images {src} does not exist')
    elif not os.path.isdir(src):
        raise NotADirectoryError(f'{src} is not a folder of images')
    for folder in dict.fromkeys(map(os.path.dirname, (out, report))):
        if not os.path.isdir(folder or '.'):
            missing.append(
                f'the folder {folder} to write to does not exist '
                f'(`mkdir -p {folder}`)'
            )
    if missing:
        raise FileNotFoundError('; '.join(missing))
    for path in (out, report):
        if os.path.isdir(path):
            raise IsADirectoryError(
                f'{path} is a folder, but must be a file to write'
            )
    if os.path.abspath(report) == os.path.abspath(out):
        raise ValueError(f'{report} cannot be both output and report')


def _check_listing(src: str, listing: Listing, labels: bool) -> None:
    if not listing.paths:
        message = (
            f'{src} holds no image, that is no file with one of the '
            f'extensions {" ".join(EXTENSIONS)}'
        )
        if listing.skipped:
            message += f'; skipped: {_summary(listing.skipped)}'
        raise ValueError(message)
    if not labels:
        return
    stray = [path for path in listing.paths if '/' not in path]
    if stray:
        raise ValueError(
            f'{len(stray)} images lie not in a class folder but directly in '
            f'{src}, {stray[0]!r} for example. Move them, or pack without '
            '--labels'
        )
    used = {path.split('/', 1)[0] for path in listing.paths}
    empty = [name for name in listing.classes if name not in used]
    if empty:
        print_log(
            f'{len(empty)} of {len(listing.classes)} class folders hold no '
            f'image, {empty[0]!r} for example. They stay classes'
        )


def _summary(reasons: dict) -> str:
    """Tell the reasons by their number, each with an example."""
    counts = Counter(reasons.values())
    example = {reason: path for path, reason in reversed(reasons.items())}
    return '; '.join(
        f'{count} x {reason} ({example[reason]!r})'
        for reason, count in counts.most_common(5)
    )


class _Journal:
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


class _PixelFile:
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
        folder = os.path.dirname(self.path) or '.'
        needed = 2 * self.num_images * (self.image_bytes + 8) + (1 << 20)
        if os.path.exists(self.path):
            needed -= os.stat(self.path).st_blocks * 512
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(
                f'{folder} has {free / 1e6:.1f} MB left, but packing '
                f'{self.num_images} images takes {needed / 1e6:.1f} MB, '
                'half of it for a while only'
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

    def write(self, index: int, pixels: bytes, file) -> None:
        """Write a chunk."""
        file.seek(self.positions(index).start * self.image_bytes)
        file.write(pixels)
        file.flush()


def _resume_or_start(
    src: str,
    journal: _Journal,
    header: dict,
    pixels: _PixelFile,
    temporary: str,
) -> None:
    """Leave in the journal those chunks that need not be done again."""
    if journal.assembled:
        # The result is made again. Until then the absence of the temporary
        # file must not be taken for its having been renamed.
        journal.append(dict(assembled=False))
    if os.path.exists(temporary):
        os.unlink(temporary)
    if journal.header == header and pixels.is_complete():
        # After a power failure the journal can be ahead of the pixels.
        with open(pixels.path, 'rb') as file:
            for index, record in list(journal.chunks.items()):
                if zlib.crc32(pixels.read(index, file)) != record['crc']:
                    del journal.chunks[index]
        done = sum(map(pixels.count, journal.chunks))
        print_log(f'Going on: {done} of {pixels.num_images} images are done')
        return
    if journal.header is not None:
        old = journal.header.get('options', {})
        changed = [
            f'{key} ({old.get(key)!r}, now {value!r})'
            for key, value in header['options'].items()
            if old.get(key) != value
        ]
        if changed:
            what = f'{", ".join(changed)} changed'
        elif journal.header.get('listing') != header['listing']:
            what = f'the files below {src} changed'
        else:
            what = f'{pixels.path} was removed or cut off'
        print_log(f'Starting anew: {what} since packing was interrupted')
    journal.start(header)
    pixels.create()


def _decode_missing(
    src: str,
    listing: Listing,
    size: int,
    fit: str,
    workers: int,
    journal: _Journal,
    pixels: _PixelFile,
) -> None:
    todo = [i for i in range(pixels.num_chunks) if i not in journal.chunks]
    if not todo:
        return
    bar = ProgressBar(sum(map(pixels.count, todo)), file=sys.stdout)
    waiting, shown = 0, time.monotonic()
    tasks = (
        (index, src, listing.paths[pixels.positions(index)], size, fit)
        for index in todo
    )
    with (
        open(pixels.path, 'r+b') as file,
        closing(_decode_chunks(tasks, min(workers, len(todo)))) as chunks,
    ):
        for index, data, bad in chunks:
            pixels.write(index, data, file)
            journal.append(dict(chunk=index, crc=zlib.crc32(data), bad=bad))
            waiting += pixels.count(index)
            now = time.monotonic()
            if now - shown > 0.5 or bar.completed + waiting == bar.task_num:
                bar.update(waiting)
                waiting, shown = 0, now
    sys.stdout.write('\n')


def _decode_chunks(tasks: Iterable, workers: int) -> Iterator:
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


def _write_npz(
    path: str,
    pixels: _PixelFile,
    bad: dict,
    labelled: Optional[Listing],
    meta: dict,
) -> None:
    """Write the packed file and flush it to the disk.

    Args:
        path (str): The file.
        pixels (_PixelFile): The images.
        bad (dict): Positions of those to leave out.
        labelled (Listing, optional): Where to take labels from.
        meta (dict): To be stored, together with the digest of the pixels.
    """
    with open(path, 'wb') as file:
        with zipfile.ZipFile(file, 'w') as archive:
            meta = dict(meta, sha256=_write_images(archive, pixels, bad))
            arrays = dict(meta=np.array(json.dumps(meta)))
            if labelled is not None:
                arrays['labels'] = _class_indices(labelled, bad)
                arrays['classes'] = np.array(labelled.classes)
            for name, array in arrays.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(
                        member, array, allow_pickle=False
                    )
        file.flush()
        os.fsync(file.fileno())


def _write_images(
    archive: zipfile.ZipFile, pixels: _PixelFile, bad: dict
) -> str:
    """Write the member ``images`` without the bad images.

    Returns:
        str: SHA-256 of its pixels, in hex.
    """
    num_good = pixels.num_images - len(bad)
    header = dict(
        descr='|u1',
        fortran_order=False,
        shape=(num_good, pixels.size, pixels.size, 3),
    )
    digest = hashlib.sha256()
    with _member(archive, 'images') as member, open(pixels.path, 'rb') as file:
        np.lib.format.write_array_header_1_0(member, header)
        for index in range(pixels.num_chunks):
            where = pixels.positions(index)
            good = [
                position - where.start
                for position in range(where.start, where.stop)
                if position not in bad
            ]
            rows = np.frombuffer(pixels.read(index, file), np.uint8)
            data = rows.reshape(-1, pixels.image_bytes)[good].tobytes()
            digest.update(data)
            member.write(data)
    return digest.hexdigest()


def _class_indices(listing: Listing, bad: dict) -> np.ndarray:
    number = {name: i for i, name in enumerate(listing.classes)}
    return np.array(
        [
            number[path.split('/', 1)[0]]
            for position, path in enumerate(listing.paths)
            if position not in bad
        ],
        dtype=np.int64,
    )


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator:
    # The default of ZipInfo is a fixed date, which keeps the bytes equal.
    info = zipfile.ZipInfo(f'{name}.npy')
    with archive.open(info, 'w', force_zip64=True) as member:
        yield member


def _write_report(path: str, reasons: dict) -> None:
    if not reasons:
        if os.path.exists(path):
            os.unlink(path)
        return
    temporary = f'{path}.tmp'
    with open(temporary, 'w', encoding='utf-8') as file:
        for name in sorted(reasons):
            # JSON escapes what a name may hold: newlines, odd bytes.
            line = json.dumps(dict(path=name, reason=reasons[name]))
            file.write(f'{line}\n')
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder or '.', os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
