"""What the runner builds, and what the tools call."""

from .hooks import *  # noqa: F403
