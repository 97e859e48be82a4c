"""Thresholds and normalisation from normal images."""

from .quantile import QUANTILES, QuantilePostProcessor, quantile

__all__ = ["QUANTILES", "QuantilePostProcessor", "quantile"]
