"""Run a tool in a process that is forked, not started anew.

A new process takes seconds to import PyTorch and the engine. Here they are
imported once, by a server without threads of which all processes are forks.
At least one test of each tool starts it as a user does, since a fork cannot
tell that the tool forgot an import.
"""

import gc
import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from yapf.yapflib import yapf_api

multiprocessing.set_forkserver_preload(
    [
        'torch',
        'mmengine.runner',
        'mmpretrain.models',
        'mmkd_plugin',
        # Of the digits that the package embeds.
        'sklearn.datasets',
    ]
)


def format_once() -> Callable:
    """Get what formats each text once, to put in the place of yapf's function.

    The engine formats the config of a run for each of its checkpoints.
    """
    format_code = yapf_api.FormatCode
    texts = {}

    def formatted(text, **style):
        if text not in texts:
            texts[text] = format_code(text, **style)
        return texts[text]

    return formatted


def _tool(arguments: list[str], environment: dict, output: Path) -> None:
    # As in conftest.py.
    gc.freeze()
    os.setsid()
    with output.open('wb') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    # The server has that of its first call.
    os.environ.clear()
    os.environ.update(environment)
    # PyTorch has read it when the server started.
    torch.set_num_threads(int(environment.get('OMP_NUM_THREADS', 1)))
    # What the server drew is the same for all forks.
    np.random.seed()
    random.seed()
    yapf_api.FormatCode = format_once()
    sys.argv = arguments
    sys.path[:0] = [
        str(Path(arguments[0]).parent),
        *filter(None, environment.get('PYTHONPATH', '').split(os.pathsep)),
    ]
    runpy.run_path(arguments[0], run_name='__main__')


class ToolProcess:
    """A tool that runs in a fork, in a session of its own.

    Args:
        arguments (Sequence): The path of the tool and its command line.
        environment (Mapping): All variables.
        output (Path): File that gets what the tool prints.
    """

    def __init__(
        self, arguments: Sequence, environment: Mapping, output: Path
    ) -> None:
        self.output = output
        context = multiprocessing.get_context('forkserver')
        self._process = context.Process(
            target=_tool,
            args=([*map(str, arguments)], dict(environment), output),
        )
        self._process.start()

    def running(self) -> bool:
        """Say whether the process has not ended."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill the process and those that it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()

    def text(self, timeout: float = 300) -> str:
        """Wait for the end, which must be a good one, and read the output."""
        self._process.join(timeout)
        if self.running():
            self.kill()
            raise TimeoutError(f'no end in {timeout} s')
        text = self.output.read_text()
        assert self._process.exitcode == 0, text[-6000:]
        return text


def run_ranks(
    arguments: Sequence, environment: Mapping, folder: Path, size: int = 2
) -> list[str]:
    """Run a tool in a group of processes, as torchrun does on one machine.

    Args:
        arguments (Sequence): See :class:`ToolProcess`, as the next.
        environment (Mapping): Has no variables of a group.
        folder (Path): Gets a file for each rank.
        size (int): How many processes. Defaults to 2.

    Returns:
        list[str]: What each of them printed.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    group = dict(
        WORLD_SIZE=size,
        LOCAL_WORLD_SIZE=size,
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=port,
    )
    processes = []
    for rank in range(size):
        own = dict(group, RANK=rank, LOCAL_RANK=rank)
        processes.append(
            ToolProcess(
                arguments,
                {**environment, **{key: str(own[key]) for key in own}},
                folder / f'rank_{rank}.txt',
            )
        )
    return [process.text() for process in processes]
