"""Thresholds and normalisation from normal images."""

from .quantile import QUANTILES, QuantilePostProcessor, pooled, quantile, tested_images

__all__ = ["QUANTILES", "QuantilePostProcessor", "pooled", "quantile", "tested_images"]
