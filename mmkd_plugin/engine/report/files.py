"""Files of a run: written whole, and its pictures read."""

from pathlib import Path
from typing import Union

from mmkd_plugin.utils.atomic import atomic_write

CONFIDENCE_PICTURE = 'confidence.png'
MONTAGE_PICTURE = 'montage.png'


def write_file(path: Union[str, Path], content: Union[str, bytes]) -> None:
    """Write a file whole or not at all.

    Args:
        path (str or Path): Where. Missing folders are made.
        content (str or bytes): What; text becomes UTF-8.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(str(path)) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_pictures(run_dir: Union[str, Path]) -> dict:
    """Read the pictures of a run's selection.

    Args:
        run_dir (str or Path): Work directory of the run.

    Returns:
        dict: PNG files by their names; empty where there is no selection.
    """
    folder = Path(run_dir) / 'selection'
    names = (CONFIDENCE_PICTURE, MONTAGE_PICTURE)
    return {
        name: (folder / name).read_bytes()
        for name in names
        if (folder / name).is_file()
    }
