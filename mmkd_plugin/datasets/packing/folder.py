"""Pack a folder tree of images."""

import json
import os
import sys
import time
import zlib
from collections import Counter
from contextlib import closing
from typing import Optional

import numpy as np
from mmengine.logging import print_log
from mmengine.utils import ProgressBar
from PIL import Image, features

from ..packed_images import FORMAT, FORMAT_VERSION
from .archive import read_meta, sync_folder, write_npz
from .decoding import FITS
from .journal import Journal
from .listing import EXTENSIONS, Listing, list_images
from .outputs import check_no_folder, check_replaceable, missing_folders
from .pixel_file import PixelFile
from .workers import decode_chunks


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
    if not os.path.exists(record):
        check_replaceable(out, force)
    with closing(Journal(record)) as journal:
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
            check_replaceable(out, force)
            _check_listing(src, listing, labels)
            pixels = PixelFile(part, len(listing.paths), size)
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
            write_npz(
                temporary,
                pixels.read_all(bad),
                meta['num_images'],
                size,
                meta,
                _label_arrays(listing, bad) if labels else None,
            )
            _write_report(report, reasons)
            journal.append(dict(assembled=True))
            os.replace(temporary, out)
            sync_folder(os.path.dirname(out))
        if os.path.exists(part):
            os.unlink(part)
        journal.remove()
    meta = read_meta(out)
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
    missing = missing_folders(out, report)
    if not os.path.exists(src):
        missing.insert(0, f'the folder of images {src} does not exist')
    elif not os.path.isdir(src):
        raise NotADirectoryError(f'{src} is not a folder of images')
    if missing:
        raise FileNotFoundError('; '.join(missing))
    check_no_folder(out, report)
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


def _resume_or_start(
    src: str,
    journal: Journal,
    header: dict,
    pixels: PixelFile,
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
    journal: Journal,
    pixels: PixelFile,
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
        closing(decode_chunks(tasks, min(workers, len(todo)))) as chunks,
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


def _label_arrays(listing: Listing, bad: dict) -> dict:
    number = {name: i for i, name in enumerate(listing.classes)}
    labels = [
        number[path.split('/', 1)[0]]
        for position, path in enumerate(listing.paths)
        if position not in bad
    ]
    return dict(
        labels=np.array(labels, dtype=np.int64),
        classes=np.array(listing.classes),
    )


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
