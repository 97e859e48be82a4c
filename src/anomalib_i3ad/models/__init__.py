"""The plugin's models."""

from .i3ad import I3AD

__all__ = ["I3AD"]
