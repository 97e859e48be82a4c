"""Loss of SSIM-AE (Bergmann et al., VISAPP 2019, sections 3.1 and 3.2)."""

import torch
from torch.nn import functional as F

from anomalib_i3ad.components.residuals import Residual
from anomalib_i3ad.components.ssim import ssim


def reconstruction_loss(image: torch.Tensor, reconstruction: torch.Tensor, kind: Residual) -> torch.Tensor:
    """``1 - mean SSIM``, or the mean squared error, in full precision under autocast.

    Args:
        image: ``(N, C, H, W)`` in [0, 1].
        reconstruction: ``(N, C, H, W)`` in [0, 1].
        kind: ``ssim`` or ``l2``.
    """
    with torch.autocast(image.device.type, enabled=False):
        image, reconstruction = image.float(), reconstruction.float()
        if kind == "l2":
            return F.mse_loss(reconstruction, image)
        return (1 - ssim(image, reconstruction)).mean()
