"""Fixtures that tests of several rooms share.

The modules beside this file (``contract``, ``ddp``, ``toys``) can be imported
by all tests, since pytest puts this folder on ``sys.path``.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

# Tests with processes of their own, and small tensors, are slower with more.
torch.set_num_threads(1)


def _shared_folder() -> Path:
    beside = Path(__file__).resolve().parents[1] / '..' / 'shared'
    return Path(os.environ.get('MMKD_SHARED', beside))


@pytest.fixture
def golden():
    """Function that reads golden vectors, a dict of arrays for each case."""

    def read(name):
        path = _shared_folder() / 'golden' / f'{name}.npz'
        if not path.is_file():
            pytest.skip(
                f'golden vectors {name}.npz are not there; set MMKD_SHARED '
                f'to the folder that holds golden/'
            )
        cases = {}
        with np.load(path) as arrays:
            for key in arrays:
                case, _, rest = key.partition('__')
                cases.setdefault(case, {})[rest] = arrays[key]
        return list(cases.values())

    return read


@pytest.fixture
def seed():
    """Make the random numbers of a test those of every other run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        yield
