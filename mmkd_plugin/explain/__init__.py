"""Knowledge points: what a network reads from an image."""

from .cell_energy import cell_energy
from .cell_entropy import (
    CellEntropy,
    entropy_converged,
    entropy_flow,
    entropy_sgd,
)
from .experiment import Experiment
from .explain_networks import explain_networks
from .explanation import Explanation, NetworkResult
from .image_set import ImageSet, load_images
from .knowledge_points import (
    effective_images,
    foreground_grid,
    knowledge_points,
    learning_speed,
    stability,
)
from .layer_feature import LayerFeature
from .page import render_explanation
from .protocol import Protocol
from .training_course import TrainingCourse, read_course

__all__ = [
    'CellEntropy',
    'Experiment',
    'Explanation',
    'ImageSet',
    'LayerFeature',
    'NetworkResult',
    'Protocol',
    'TrainingCourse',
    'cell_energy',
    'effective_images',
    'entropy_converged',
    'entropy_flow',
    'entropy_sgd',
    'explain_networks',
    'foreground_grid',
    'knowledge_points',
    'learning_speed',
    'load_images',
    'read_course',
    'render_explanation',
    'stability',
]
