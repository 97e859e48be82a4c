"""RIAD: reconstruction by inpainting."""

from .lightning_model import Riad

__all__ = ["Riad"]
