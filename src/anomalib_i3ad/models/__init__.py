"""The plugin's models."""

from anomalib_i3ad.registration import register_models

from .ano_gan import AnoGan
from .i3ad import I3AD
from .riad import Riad
from .ssim_ae import SsimAe

__all__ = ["I3AD", "AnoGan", "Riad", "SsimAe"]

register_models(I3AD, AnoGan, Riad, SsimAe)
