"""Which images lie below a folder."""

import hashlib
import itertools
import json
import os
import posixpath
from dataclasses import dataclass
from typing import Optional

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
