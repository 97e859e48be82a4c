"""Thresholds and normalisation from normal images."""

from .quantile import QuantilePostProcessor, quantile

__all__ = ["QuantilePostProcessor", "quantile"]
