"""Losses of FeatureI3AD's inpainter."""

import torch

#: Weight of visible cells beside that of hidden ones.
VISIBLE_WEIGHT = 0.1
#: Keeps the likelihood of a perfect inpainting finite.
LEAST_RESIDUAL = 1e-4


def inpainting_loss(residual: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Mean of a residual ``(N, L, h, w)``, weighted to the hidden cells of ``hole`` ``(N, 1, h, w)``."""
    weight = hole + VISIBLE_WEIGHT
    return (residual * weight).mean() / weight.mean()


def likelihood_loss(residual: torch.Tensor, expected: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood ``r / e + log e`` of residuals that are exponentially distributed around ``expected``.

    Least where e is the mean of r. Its gradient reaches what is expected, and not the residual.

    Args:
        residual: r, ``(N, L, h, w)``, not negative.
        expected: e, ``(N, L, h, w)``, positive.
        hole: ``(N, 1, h, w)``; only hidden cells count.
    """
    size = residual.detach() + LEAST_RESIDUAL
    return ((size / expected + expected.log()).mean(dim=1, keepdim=True) * hole).sum() / hole.sum()
