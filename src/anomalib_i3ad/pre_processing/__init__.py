"""Pre-processing shared by training, prediction and the exported graph."""

from anomalib_i3ad.registration import register_transform

from .resize import AntialiasedResize

__all__ = ["AntialiasedResize"]

register_transform(AntialiasedResize)
