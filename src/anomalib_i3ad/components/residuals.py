"""Residuals: how an inpainting differs from its image, per pixel."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn

from .arguments import check_choice
from .ssim import SSIM


class Residual(nn.Module, ABC):
    """Map (image, inpainting) to a non-negative residual map, 0 where they agree."""

    @abstractmethod
    def against(self, image: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """Fix the image and do once what depends on it alone.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].

        Returns:
            Function from an inpainting ``(N, 3, H, W)`` to its residual ``(N, 1, H, W)``.
        """

    def forward(self, image: torch.Tensor, inpainting: torch.Tensor) -> torch.Tensor:
        """Residual map ``(N, 1, H, W)`` of two batches ``(N, 3, H, W)`` in [0, 1]."""
        return self.against(image)(inpainting)


class SSIMResidual(Residual):
    """Structural dissimilarity ``(1 - SSIM) / 2``, in [0, 1] (I3AD, section 2.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.ssim = SSIM()

    def against(self, image: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """See :meth:`Residual.against`."""
        dissimilarity = self.ssim.dissimilarity_to(image)
        return lambda inpainting: dissimilarity(inpainting) / 2


class L2Residual(Residual):
    """Squared difference, mean over channels, in [0, 1] (I3AD, tables 1 and 2)."""

    def against(self, image: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """See :meth:`Residual.against`."""
        return lambda inpainting: (inpainting - image).square().mean(dim=1, keepdim=True)


RESIDUALS: dict[str, type[Residual]] = {"ssim": SSIMResidual, "l2": L2Residual}


def build_residual(name: str) -> Residual:
    """Build a residual by name.

    Raises:
        ValueError: If there is no residual of that name.
    """
    check_choice("residual", name, RESIDUALS)
    return RESIDUALS[name]()
