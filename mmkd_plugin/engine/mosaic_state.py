"""What a checkpoint holds of MosaicKD's players."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.utils import apply_to
from torch import nn

from .mosaic_players import MosaicPlayers

#: Where it lies in the checkpoint.
STATE_KEY = 'mosaic_generator_hook'


def pack_state(
    generator: Mapping,
    preprocessor: nn.Module,
    players: MosaicPlayers,
    terms: Mapping[str, float],
) -> dict:
    """Collect what a resumed run and an export of the generator need.

    Args:
        generator (Mapping): Config of the generator.
        preprocessor (nn.Module): The data preprocessor, with the teacher's
            ``mean`` and ``std``.
        players (MosaicPlayers): The players.
        terms (Mapping[str, float]): What the last update returned.

    Returns:
        dict: ``generator``, ``mean``, ``std``, ``players`` and ``terms``:
        plain Python and tensors on the CPU.
    """
    state = dict(
        generator=_plain(generator),
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        players=players.state_dict(),
        terms=dict(terms),
    )
    # As the engine does with the rest.
    return apply_to(state, torch.is_tensor, lambda tensor: tensor.cpu())


def _plain(config: Any) -> Any:
    """Turn a config into what any program can read from a checkpoint."""
    if isinstance(config, dict):
        return {str(key): _plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_plain(value) for value in config]
    # A type that is not given by its name.
    return getattr(config, '__name__', config)
