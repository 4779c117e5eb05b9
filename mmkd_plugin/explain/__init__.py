"""Knowledge points: what a network reads from an image."""

from .cell_energy import cell_energy
from .cell_entropy import (
    CellEntropy,
    entropy_converged,
    entropy_flow,
    entropy_sgd,
)
from .knowledge_points import (
    effective_images,
    foreground_grid,
    knowledge_points,
    learning_speed,
    stability,
)

__all__ = [
    'CellEntropy',
    'cell_energy',
    'effective_images',
    'entropy_converged',
    'entropy_flow',
    'entropy_sgd',
    'foreground_grid',
    'knowledge_points',
    'learning_speed',
    'stability',
]
