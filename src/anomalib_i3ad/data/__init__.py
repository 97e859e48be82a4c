"""Data modules."""

from .mvtec import MVTec
from .textures import Textures

__all__ = ["MVTec", "Textures"]
