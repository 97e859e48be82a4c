"""Residuals: how an inpainting differs from its image, per pixel."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .arguments import check_choice
from .features import FrozenFeatures
from .ssim import SSIM


class Residual(nn.Module, ABC):
    """Map (image, inpainting) to a non-negative residual map, 0 where they agree."""

    @abstractmethod
    def prepare(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Do once what depends on the image alone.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].

        Returns:
            Tensors with an entry an image, for :meth:`compare`.
        """

    @abstractmethod
    def compare(self, prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
        """Residual ``(N, 1, H, W)`` of prepared images and their inpaintings ``(N, 3, H, W)``."""

    def forward(self, image: torch.Tensor, inpainting: torch.Tensor) -> torch.Tensor:
        """Residual map ``(N, 1, H, W)`` of two batches ``(N, 3, H, W)`` in [0, 1]."""
        return self.compare(self.prepare(image), inpainting)


class SSIMResidual(Residual):
    """Structural dissimilarity ``(1 - SSIM) / 2``, in [0, 1] (I3AD, section 2.1)."""

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

    def prepare(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :meth:`Residual.prepare`."""
        return (image,)

    def compare(self, prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
        """See :meth:`Residual.compare`."""
        (image,) = prepared
        return (inpainting - image).square().mean(dim=1, keepdim=True)


class FeatureResidual(Residual):
    """``1 - cosine similarity`` of early features of a pretrained network, mean over its layers, in [0, 2].

    Not in the paper: blurred and sharp inpaintings of one texture differ less in features than in pixels.

    Args:
        features: The network.
    """

    def __init__(self, features: FrozenFeatures) -> None:
        super().__init__()
        self.features = features

    def prepare(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :meth:`Residual.prepare`."""
        return self.features(image)

    def compare(self, prepared: tuple[torch.Tensor, ...], inpainting: torch.Tensor) -> torch.Tensor:
        """See :meth:`Residual.compare`."""
        maps = []
        for of_image, of_inpainting in zip(prepared, self.features(inpainting), strict=True):
            # of unit vectors: 1 - a b = |a - b|^2 / 2, which is exactly 0 where they are equal
            distance = (of_image - of_inpainting).square().sum(dim=1, keepdim=True) / 2
            maps.append(F.interpolate(distance, inpainting.shape[-2:], mode="bilinear", align_corners=False))
        return torch.stack(maps).mean(dim=0)


RESIDUALS: dict[str, type[Residual]] = {"ssim": SSIMResidual, "l2": L2Residual}


def build_residual(name: str, features: Callable[[], FrozenFeatures] | None = None) -> Residual:
    """Build a residual by name.

    Args:
        name: ``ssim``, ``l2``, or ``features`` where there are any.
        features: Makes the network of ``features``.

    Raises:
        ValueError: If there is no residual of that name.
    """
    check_choice("residual", name, RESIDUALS if features is None else [*RESIDUALS, "features"])
    return FeatureResidual(features()) if features is not None and name == "features" else RESIDUALS[name]()
