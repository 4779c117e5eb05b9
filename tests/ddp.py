"""Run a function in real processes that talk to each other by gloo."""

import gc
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import forks  # noqa: F401  What the server of all processes imports.
import torch
from torch import distributed, multiprocessing


def _process(
    rank: int,
    function: Callable,
    folder: Path,
    size: int,
    args: tuple,
    environment: dict,
) -> None:
    # As in conftest.py.
    gc.freeze()
    # The server has that of its first call.
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder / "rendezvous"}',
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(function(rank, *args), folder / f'{rank}.pt')
    finally:
        distributed.destroy_process_group()


def run_processes(
    function: Callable,
    folder: Path,
    *args: Any,
    size: int = 2,
    timeout: float = 120,
) -> list:
    """Call ``function(rank, *args)`` in new processes of one group.

    Args:
        function (Callable): A function of a module, not a nested one.
        folder (Path): An empty folder, for example ``tmp_path``.
        *args: Further arguments, which can be pickled.
        size (int): How many processes. Defaults to 2.
        timeout (float): Seconds until they are killed. Defaults to 120.

    Returns:
        list: What the function returned, rank by rank.
    """
    processes = multiprocessing.start_processes(
        _process,
        (function, folder, size, args, dict(os.environ)),
        nprocs=size,
        join=False,
        start_method='forkserver',
    )
    end = time.monotonic() + timeout
    # It raises what a process raised.
    while not processes.join(timeout=1):
        if time.monotonic() > end:
            for process in processes.processes:
                process.kill()
            raise TimeoutError(f'{function.__name__}: no end in {timeout} s')
    return [
        torch.load(folder / f'{rank}.pt', weights_only=False)
        for rank in range(size)
    ]
