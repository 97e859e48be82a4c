"""The plugin's models."""

from .i3ad import I3AD
from .riad import Riad
from .ssim_ae import SsimAe

__all__ = ["I3AD", "Riad", "SsimAe"]
