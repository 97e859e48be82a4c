"""The plugin's models."""

from .ano_gan import AnoGan
from .i3ad import I3AD
from .riad import Riad
from .ssim_ae import SsimAe

__all__ = ["I3AD", "AnoGan", "Riad", "SsimAe"]
