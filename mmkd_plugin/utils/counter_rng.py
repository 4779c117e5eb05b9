"""Random numbers that depend on where one is, not on what came before."""

import numpy as np


def counter_rng(
    seed: int, rank: int, step: int, stream: int = 0
) -> np.random.Generator:
    """Make a generator from a position in the run.

    Philox is a counter-based generator: seed, rank and step are its key and
    counter, so any step can be drawn without the steps before it. A resumed
    run draws what an uninterrupted one draws.

    Args:
        seed (int): Seed of the run.
        rank (int): Rank of the process.
        step (int): Training iteration.
        stream (int): Tells apart users of the same position. Defaults to 0.

    Returns:
        np.random.Generator: The generator.
    """
    # The lowest word of the counter is left to the generator itself.
    counter = np.array([0, stream, rank, step % 2**64], dtype=np.uint64)
    return np.random.Generator(
        np.random.Philox(key=seed % 2**64, counter=counter)
    )
