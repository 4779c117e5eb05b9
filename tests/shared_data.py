"""Where the data lie that are beside the checkout, if they are."""

import os
from pathlib import Path

import pytest

SHARED = Path(
    os.environ.get(
        'MMKD_SHARED', Path(__file__).resolve().parents[1] / '..' / 'shared'
    )
)


def shared_file(name: str) -> Path:
    """Get a file of the shared folder; without it the test is skipped."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(
            f'{name} is not there; set MMKD_SHARED to the folder that holds it'
        )
    return path
