"""A headless browser that looks at pages that were written."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


def find_browser() -> Optional[str]:
    """Find a Chromium: its path, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def screenshot(
    page: Path, out: Path, size: tuple[int, int], dark: bool = False
) -> np.ndarray:
    """Take a picture of the upper left of a page.

    Args:
        page (Path): The HTML file.
        out (Path): The PNG file to write.
        size (tuple[int, int]): Width and height of the window, pixels.
            Chromium makes no window narrower than about 500.
        dark (bool): Whether the reader prefers dark pages. Defaults to
            False.

    Returns:
        np.ndarray: RGB, uint8, shape ``(H, W, 3)``.
    """
    options = [
        '--hide-scrollbars',
        f'--window-size={size[0]},{size[1]}',
        f'--screenshot={out}',
        f'--blink-settings=preferredColorScheme={0 if dark else 1}',
    ]
    _run(page, options)
    with Image.open(out) as image:
        return np.asarray(image.convert('RGB'))


def dumped_dom(page: Path) -> str:
    """Read the document that a browser makes of a page, as HTML."""
    return _run(page, ['--dump-dom'])


def _run(page: Path, options: list) -> str:
    # A profile of its own: one that another browser uses is locked.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            find_browser(),
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-dev-shm-usage',
            f'--user-data-dir={profile}',
            *options,
            page.resolve().as_uri(),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    return done.stdout
