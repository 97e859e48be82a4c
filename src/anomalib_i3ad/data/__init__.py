"""Data modules."""

from anomalib_i3ad.registration import register_data

from .mvtec import MVTec
from .textures import Textures

__all__ = ["MVTec", "Textures"]

register_data(MVTec, Textures)
