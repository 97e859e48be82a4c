"""FeatureI3AD."""

from .lightning_model import FeatureI3AD

__all__ = ["FeatureI3AD"]
