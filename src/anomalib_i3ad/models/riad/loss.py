"""Loss of RIAD (Zavrtanik et al., Pattern Recognition 2021, section 3.2)."""

import torch
from torch import nn
from torch.nn import functional as F

from anomalib_i3ad.components.gms import msgms_loss
from anomalib_i3ad.components.ssim import SSIM


class RiadLoss(nn.Module):
    """MSGMS, SSIM and L2 terms, weights 1."""

    def __init__(self) -> None:
        super().__init__()
        self.ssim = SSIM()

    def forward(self, image: torch.Tensor, reconstruction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Terms for two batches ``(N, 3, H, W)`` in [0, 1], in full precision under autocast; add them up."""
        with torch.autocast(image.device.type, enabled=False):
            image, reconstruction = image.float(), reconstruction.float()
            return {
                "msgms_loss": msgms_loss(image, reconstruction),
                "ssim_loss": (1 - self.ssim(image, reconstruction)).mean(),
                "l2_loss": F.mse_loss(reconstruction, image),
            }
