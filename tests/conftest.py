"""Fixtures that tests of several rooms share.

The modules beside this file (``contracts``, ``ddp``, ``toys``) can be imported
by all tests, since pytest puts this folder on ``sys.path``.
"""

import gc
import os

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from shared_data import shared_file

# Tests with processes of their own, and small tensors, are slower with more.
torch.set_num_threads(1)
os.environ.setdefault('OMP_NUM_THREADS', '1')


def pytest_collection_modifyitems(config, items):
    """Let several workers begin with whole runs.

    At the end one of them would have to wait for such a file of the other.
    """
    if hasattr(config, 'workerinput'):
        items.sort(key=lambda item: 'test_tools' not in item.path.parts)


def pytest_collection_finish():
    """Let no garbage collection look through what stays until the end.

    The engine collects garbage for each data set that it loads, in a second,
    of all the modules and tests.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let the end of the process find what it looks for."""
    gc.unfreeze()


@pytest.fixture(scope='module', autouse=True)
def default_scope_of_its_own():
    """Let each file begin with the default scope that it has alone.

    A runner leaves its own behind, and the engine's where it is given none.
    """
    before = DefaultScope._instance_dict
    DefaultScope._instance_dict = before.copy()
    yield
    DefaultScope._instance_dict = before


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
