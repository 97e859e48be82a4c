"""Residuals: how an inpainting differs from its image, per pixel; 0 where they agree.

Both take the image as :func:`prepare_for` makes it, and the inpainting ``(N, C, H, W)`` in [0, 1], and give
``(N, 1, H, W)`` in [0, 1].
"""

from collections.abc import Callable
from typing import Literal

import torch

from .ssim import dissimilarity, prepare

Residual = Literal["ssim", "l2"]


def prepare_for(image: torch.Tensor, *names: Residual) -> tuple[torch.Tensor, ...]:
    """Do once what these residuals need of an image ``(N, C, H, W)`` in [0, 1] alone; it comes first."""
    return prepare(image) if "ssim" in names else (image,)


def ssim_residual(prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
    """Structural dissimilarity ``(1 - SSIM) / 2`` (I3AD, section 2.1)."""
    return dissimilarity(prepared, inpainting) / 2


def l2_residual(prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
    """Squared difference, mean over channels (I3AD, tables 1 and 2)."""
    return (inpainting - prepared[0]).square().mean(dim=1, keepdim=True)


RESIDUALS: dict[str, Callable[[tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]] = {
    "ssim": ssim_residual,
    "l2": l2_residual,
}
