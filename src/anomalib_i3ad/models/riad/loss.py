"""Loss of RIAD (Zavrtanik et al., Pattern Recognition 2021, section 3.2)."""

import torch
from torch.nn import functional as F

from anomalib_i3ad.components.ssim import ssim

from .gms import msgms_loss


def riad_loss(image: torch.Tensor, reconstruction: torch.Tensor) -> dict[str, torch.Tensor]:
    """MSGMS, SSIM and L2 terms of two batches ``(N, 3, H, W)`` in [0, 1], to be added up; full precision always."""
    with torch.autocast(image.device.type, enabled=False):
        image, reconstruction = image.float(), reconstruction.float()
        return {
            "msgms_loss": msgms_loss(image, reconstruction),
            "ssim_loss": (1 - ssim(image, reconstruction)).mean(),
            "l2_loss": F.mse_loss(reconstruction, image),
        }
