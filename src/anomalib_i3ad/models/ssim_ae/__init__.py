"""SSIM-AE: an autoencoder whose loss and residual are structural similarity, or L2."""

from .lightning_model import SsimAe

__all__ = ["SsimAe"]
