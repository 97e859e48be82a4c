"""AnoGAN and f-AnoGAN: the nearest image a GAN of normal images can draw."""

from .lightning_model import AnoGan

__all__ = ["AnoGan"]
