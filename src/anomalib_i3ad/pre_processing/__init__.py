"""Pre-processing shared by training, prediction and the exported graph."""

from anomalib_i3ad.registration import register_transform

from .resize import AntialiasedResize, make_exportable

__all__ = ["AntialiasedResize", "make_exportable"]

register_transform(AntialiasedResize)
