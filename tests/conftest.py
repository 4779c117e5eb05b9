"""Fixtures that tests of several rooms share.

The modules beside this file (``contract``, ``ddp``, ``toys``) can be imported
by all tests, since pytest puts this folder on ``sys.path``.
"""

import numpy as np
import pytest
import torch
from shared_data import shared_file

# Tests with processes of their own, and small tensors, are slower with more.
torch.set_num_threads(1)


@pytest.fixture
def golden():
    """Function that reads golden vectors, a dict of arrays for each case."""

    def read(name):
        path = shared_file(f'golden/{name}.npz')
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
