"""Reconstruction-based anomaly detectors for anomalib, from training to the edge.

The names below are loaded when they are first used, since :mod:`anomalib_i3ad.deploy` must run without torch and
anomalib. In a program that uses anomalib they are known to it, whichever of the two is imported first.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import follow_anomalib

if TYPE_CHECKING:
    from .data import MVTec, Textures
    from .models import I3AD, AnoGan, FeatureI3AD, Riad, SsimAe

__version__ = "0.1.0"
__all__ = ["I3AD", "AnoGan", "FeatureI3AD", "MVTec", "Riad", "SsimAe", "Textures", "register"]


def register() -> None:
    """Make models and datamodules known to anomalib by name and class path; harmless when repeated."""
    for room in ("models", "data"):
        import_module(f"{__name__}.{room}")


def __getattr__(name: str) -> Any:
    """Load a model or datamodule, which registers all of them."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    register()
    rooms = (sys.modules[f"{__name__}.{room}"] for room in ("models", "data"))
    return next(getattr(room, name) for room in rooms if name in room.__all__)


follow_anomalib()
