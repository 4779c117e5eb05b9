"""Files of a run: written whole, and its pictures read."""

from pathlib import Path
from typing import Union

from mmkd_plugin.utils.atomic import atomic_write

CONFIDENCE_PICTURE = 'confidence.png'
MONTAGE_PICTURE = 'montage.png'
FIRST_MOSAIC_PICTURE = 'first.png'
LATEST_MOSAIC_PICTURE = 'latest.png'
_FOLDERS = {
    CONFIDENCE_PICTURE: 'selection',
    MONTAGE_PICTURE: 'selection',
    FIRST_MOSAIC_PICTURE: 'mosaic',
    LATEST_MOSAIC_PICTURE: 'mosaic',
}


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
    """Read the pictures of a run: of its selection and of its generator.

    Args:
        run_dir (str or Path): Work directory of the run.

    Returns:
        dict: PNG files by their names; empty where there are none.
    """
    paths = [Path(run_dir, folder, x) for x, folder in _FOLDERS.items()]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}
