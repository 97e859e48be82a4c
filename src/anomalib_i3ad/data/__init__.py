"""Data modules."""

from .mvtec import MVTec

__all__ = ["MVTec"]
