"""Residuals: how an inpainting differs from its image, per pixel."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from .arguments import check_choice
from .ssim import SSIM


class Residual(nn.Module, ABC):
    """Map (image, inpainting) to a non-negative residual map, 0 where they agree."""

    #: How many tensors :meth:`prepare` makes.
    prepared: int

    @abstractmethod
    def prepare(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Do once what depends on the image alone.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].

        Returns:
            Tensors with one entry per image, for :meth:`compare`.
        """

    @abstractmethod
    def compare(self, prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
        """Residual ``(N, 1, H, W)`` of prepared images and their inpaintings ``(N, 3, H, W)``."""

    def forward(self, image: torch.Tensor, inpainting: torch.Tensor) -> torch.Tensor:
        """Residual map ``(N, 1, H, W)`` of two batches ``(N, 3, H, W)`` in [0, 1]."""
        return self.compare(self.prepare(image), inpainting)


class SSIMResidual(Residual):
    """Structural dissimilarity ``(1 - SSIM) / 2``, in [0, 1] (I3AD, section 2.1)."""

    prepared = 3

    def __init__(self) -> None:
        super().__init__()
        self.ssim = SSIM()

    def prepare(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :meth:`Residual.prepare`."""
        return self.ssim.prepare(image)

    def compare(self, prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
        """See :meth:`Residual.compare`."""
        return self.ssim.dissimilarity(prepared, inpainting) / 2


class L2Residual(Residual):
    """Squared difference, mean over channels, in [0, 1] (I3AD, tables 1 and 2)."""

    prepared = 1

    def prepare(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :meth:`Residual.prepare`."""
        return (image,)

    def compare(self, prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
        """See :meth:`Residual.compare`."""
        (image,) = prepared
        return (inpainting - image).square().mean(dim=1, keepdim=True)


RESIDUALS: dict[str, type[Residual]] = {"ssim": SSIMResidual, "l2": L2Residual}


def build_residual(argument: str, name: str) -> Residual:
    """Build the residual that an argument names: ``ssim`` or ``l2``.

    Raises:
        ValueError: If there is no residual of that name; names the argument.
    """
    check_choice(argument, name, RESIDUALS)
    return RESIDUALS[name]()
