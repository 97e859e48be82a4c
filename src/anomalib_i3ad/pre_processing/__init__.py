"""Pre-processing shared by training, prediction and the exported graph."""

from .resize import AntialiasedResize

__all__ = ["AntialiasedResize"]
