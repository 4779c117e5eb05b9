"""Models, and what makes them up."""

from .algorithms import *  # noqa: F403
from .backbones import *  # noqa: F403
from .classifiers import *  # noqa: F403
from .connectors import *  # noqa: F403
from .data_preprocessors import *  # noqa: F403
from .distillers import *  # noqa: F403
from .generators import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403
from .recorders import *  # noqa: F403
from .schedules import *  # noqa: F403
from .stores import *  # noqa: F403
