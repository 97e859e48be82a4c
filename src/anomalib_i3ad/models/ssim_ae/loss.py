"""Losses of SSIM-AE (Bergmann et al., VISAPP 2019, sections 3.1 and 3.2)."""

from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from anomalib_i3ad.components.arguments import check_choice
from anomalib_i3ad.components.ssim import SSIM

Kind = Literal["ssim", "l2"]


class ReconstructionLoss(nn.Module):
    """``1 - mean SSIM``, or the mean squared error.

    Args:
        kind: ``ssim`` or ``l2``.

    Raises:
        ValueError: If ``kind`` is neither.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        check_choice("loss", kind, get_args(Kind))
        self.ssim = SSIM() if kind == "ssim" else None

    def forward(self, image: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """Loss of two batches ``(N, C, H, W)`` in [0, 1], in full precision under autocast."""
        with torch.autocast(image.device.type, enabled=False):
            image, reconstruction = image.float(), reconstruction.float()
            if self.ssim is None:
                return F.mse_loss(reconstruction, image)
            return (1 - self.ssim(image, reconstruction)).mean()
