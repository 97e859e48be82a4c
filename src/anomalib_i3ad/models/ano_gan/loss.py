"""Losses of the GAN and of f-AnoGAN's encoder."""

import torch
from torch.nn import functional as F


def cross_entropy(logits: torch.Tensor, *, real: bool) -> torch.Tensor:
    """Sigmoid cross-entropy ``(N,)`` of logits ``(N, 1)`` with one target for all."""
    return F.softplus(-logits if real else logits).flatten()


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Discriminator's loss from its logits ``(N, 1)`` on real and drawn patches."""
    return cross_entropy(real, real=True).mean() + cross_entropy(fake, real=False).mean()


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Generator's loss, in its form that does not saturate, from the logits on what it drew."""
    return cross_entropy(fake, real=True).mean()


def encoder_loss(
    patch: torch.Tensor, drawn: torch.Tensor, features: torch.Tensor, drawn_features: torch.Tensor, weight: float
) -> torch.Tensor:
    """``MSE(x, G(E(x))) + kappa * MSE(f(x), f(G(E(x))))`` (Schlegl et al., f-AnoGAN, 2019, equation 4).

    Args:
        patch: x, ``(N, 3, H, W)``.
        drawn: G(E(x)), of the same shape.
        features: f(x), of any shape.
        drawn_features: f(G(E(x))), of the same shape.
        weight: kappa.
    """
    return F.mse_loss(drawn, patch) + weight * F.mse_loss(drawn_features, features)
