"""Reconstruction-based anomaly detectors for anomalib, from training to the edge."""

from .data import MVTec, Textures
from .models import I3AD, AnoGan, Riad, SsimAe
from .registration import register

__version__ = "0.1.0"
__all__ = ["I3AD", "AnoGan", "MVTec", "Riad", "SsimAe", "Textures", "register"]

register()
