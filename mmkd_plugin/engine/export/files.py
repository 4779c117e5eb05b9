"""Files that an export writes, all of them or none."""

import os
from contextlib import ExitStack
from typing import Optional

from mmkd_plugin.utils.atomic import atomic_write


def check_target(path: str, suffix: str) -> None:
    """Check the path of a file to write.

    Args:
        path (str): The file.
        suffix (str): How its name must end.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it ends in something else.
    """
    if not path.endswith(suffix):
        raise ValueError(
            f'the file to write must end in {suffix}, but got {path}'
        )
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f'there is no folder {folder} to write {path} to'
        )


def is_same(path: str, other: Optional[str]) -> bool:
    """Whether both are there, and one file."""
    return (
        other is not None
        and os.path.exists(path)
        and os.path.exists(other)
        and os.path.samefile(path, other)
    )


def write_together(contents: dict[str, bytes]) -> None:
    """Write some files.

    Args:
        contents (dict[str, bytes]): The content of each, by its path.
    """
    with ExitStack() as stack:
        # Renamed when the stack is left, so all of them or none.
        files = [stack.enter_context(atomic_write(path)) for path in contents]
        for file, content in zip(files, contents.values(), strict=True):
            file.write(content)
