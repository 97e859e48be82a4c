"""Thresholds and normalisation from normal images."""

from .quantile import QUANTILES, QuantilePostProcessor, quantile, tested_images

__all__ = ["QUANTILES", "QuantilePostProcessor", "quantile", "tested_images"]
