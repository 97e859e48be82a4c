"""The plugin's models."""

from anomalib_i3ad.registration import register_models

from .ano_gan import AnoGan
from .feature_i3ad import FeatureI3AD
from .i3ad import I3AD
from .riad import Riad
from .ssim_ae import SsimAe

__all__ = ["I3AD", "AnoGan", "FeatureI3AD", "Riad", "SsimAe"]

register_models(I3AD, AnoGan, FeatureI3AD, Riad, SsimAe)
