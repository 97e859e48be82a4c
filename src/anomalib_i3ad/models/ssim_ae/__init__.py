"""SSIM-AE: an autoencoder trained and read with structural similarity, and its L2 twin."""

from .lightning_model import SsimAe

__all__ = ["SsimAe"]
