"""Reconstruction-based anomaly detectors for anomalib, from training to the edge.

The names below are loaded when they are first used, since :mod:`anomalib_i3ad.deploy` must run without torch and
anomalib. In a program that uses anomalib they are known to it, whichever of the two is imported first.
"""

import sys
from typing import TYPE_CHECKING, Any

from .quiet import ignore_what_is_not_the_users
from .registration import follow_anomalib, import_room

if TYPE_CHECKING:
    from .data import MVTec, Textures
    from .models import I3AD, AnoGan, FeatureI3AD, Riad, SsimAe

__version__ = "0.2.0"
__all__ = ["I3AD", "AnoGan", "FeatureI3AD", "MVTec", "Riad", "SsimAe", "Textures", "register"]


def register() -> None:
    """Make models and datamodules known to anomalib by name and class path; harmless when repeated.

    Raises:
        ModuleNotFoundError: If something is missing that the extra ``train`` installs.
    """
    for room in ("models", "data"):
        import_room(room)


def __getattr__(name: str) -> Any:
    """Load a model or datamodule, which registers all of them."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    register()
    rooms = (sys.modules[f"{__name__}.{room}"] for room in ("models", "data"))
    return next(getattr(room, name) for room in rooms if name in room.__all__)


def __dir__() -> list[str]:
    """Names for completion, those that are not loaded yet among them."""
    return [*__all__, "__version__"]


# without it OpenVINO uses a stub: it would tell its makers of every start and every export, each by a process of its
# own, and wait for them where no one answers
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
ignore_what_is_not_the_users()
follow_anomalib()
