"""Distillers: recorders, connectors and losses, wired by a config."""

from .configurable_distiller import ConfigurableDistiller

__all__ = ['ConfigurableDistiller']
