"""How samplers and hooks find the model of the current run.

A sampler is built from its config and the data set alone, while the model,
with the teacher, is there already. mmengine's message hub, one a runner, is
the place where components of a run leave word for each other.
"""

import weakref
from typing import Optional

from mmengine.logging import MessageHub
from torch import nn

_KEY = 'distill_algorithm'


def announce_algorithm(algorithm: nn.Module) -> None:
    """Leave word that this is the model of the current run.

    Args:
        algorithm (nn.Module): A distillation algorithm. No strong reference
            to it is kept, and it does not enter checkpoints.
    """
    MessageHub.get_current_instance().update_info(
        _KEY, weakref.ref(algorithm), resumed=False
    )


def running_algorithm() -> Optional[nn.Module]:
    """Get the distillation algorithm of the current run.

    Returns:
        nn.Module or None: The algorithm that was announced last.
    """
    reference = MessageHub.get_current_instance().get_info(_KEY)
    return None if reference is None else reference()
