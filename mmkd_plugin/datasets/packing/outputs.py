"""What is checked before anything is written."""

import os
import shutil


def missing_folders(*paths: str) -> list[str]:
    """Tell which folders of files to write are not there.

    Args:
        *paths (str): The files.

    Returns:
        list[str]: A message for each folder that is missing, with the
        command that makes it.
    """
    return [
        f'the folder {folder} to write to does not exist (`mkdir -p {folder}`)'
        for folder in dict.fromkeys(map(os.path.dirname, paths))
        if not os.path.isdir(folder or '.')
    ]


def check_no_folder(*paths: str) -> None:
    """Check that none of the files to write is a folder.

    Raises:
        IsADirectoryError: If one is.
    """
    for path in paths:
        if os.path.isdir(path):
            raise IsADirectoryError(
                f'{path} is a folder, but must be a file to write'
            )


def check_replaceable(out: str, force: bool) -> None:
    """Check that the file to write is not there, or may be replaced.

    Raises:
        FileExistsError: If it is there and ``force`` is not set.
    """
    if os.path.exists(out) and not force:
        raise FileExistsError(f'{out} exists. Use --force to replace it')


def check_space(
    path: str, num_bytes: int, num_images: int, remark: str = ''
) -> None:
    """Check that images fit onto the disk of a file.

    Args:
        path (str): The file, which need not exist.
        num_bytes (int): What is still to be written.
        num_images (int): How many images that is, for the message.
        remark (str): The end of the message. Defaults to ''.

    Raises:
        OSError: If they do not.
    """
    folder = os.path.dirname(path) or '.'
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise OSError(
            f'{folder} has {free / 1e6:.1f} MB left, but packing '
            f'{num_images} images takes {num_bytes / 1e6:.1f} MB{remark}'
        )
