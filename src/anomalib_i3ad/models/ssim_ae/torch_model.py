"""SSIM-AE's autoencoder and its two ways to read an image (Bergmann et al., VISAPP 2019, section 3)."""

from itertools import pairwise
from typing import Literal, get_args

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from anomalib_i3ad.components.arguments import check_choice, check_count
from anomalib_i3ad.components.base import ImageModel
from anomalib_i3ad.components.patches import Windows, check_patches
from anomalib_i3ad.components.residuals import RESIDUALS, Residual, prepare_for
from anomalib_i3ad.components.scores import ImageScore, Reduction

Mode = Literal["objects", "textures"]
#: Output channels, kernel and stride of the encoder's layers before the latent one (the paper's table 1).
LAYERS = ((32, 4, 2), (32, 4, 2), (32, 3, 1), (64, 4, 2), (64, 3, 1), (128, 4, 2), (64, 3, 1), (32, 3, 1))
LAYERS_AT_256 = (LAYERS[0], *LAYERS)
LATENT_KERNEL = 8


class Autoencoder(nn.Module):
    """Convolutional autoencoder with a linear latent vector; 1,048,549 parameters at 128 px, one channel, d = 100.

    Args:
        channels: Channels of the image.
        size: Side of the image in pixels, 128 or 256.
        latent_dim: Length d of the latent vector.

    Raises:
        ValueError: If ``size`` is neither.
    """

    def __init__(self, channels: int, size: int, latent_dim: int) -> None:
        super().__init__()
        if size not in {128, 256}:
            msg = f"the autoencoder takes 128x128 or 256x256 pixels, not {size}x{size} (image_size or patch_size)"
            raise ValueError(msg)
        layers = LAYERS if size == 128 else LAYERS_AT_256
        widths = [channels, *(out for out, _, _ in layers)]
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for (in_channels, out_channels), (_, kernel, stride) in zip(pairwise(widths), layers, strict=True):
            down += [nn.Conv2d(in_channels, out_channels, kernel, stride, padding=1), nn.LeakyReLU(0.2)]
            up = [nn.LeakyReLU(0.2), nn.ConvTranspose2d(out_channels, in_channels, kernel, stride, padding=1), *up]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], latent_dim, LATENT_KERNEL))
        self.decoder = nn.Sequential(nn.ConvTranspose2d(latent_dim, widths[-1], LATENT_KERNEL), *up, nn.Sigmoid())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct ``(N, C, size, size)`` in [0, 1]."""
        return self.decoder(self.encoder(image))


class SsimAeModel(ImageModel):
    """Reconstructs an image from its latent vector and compares the two.

    ``size`` is the side in pixels of what the autoencoder sees: the image, or a window in mode ``textures``. The other
    arguments as of :class:`~anomalib_i3ad.models.SsimAe`.
    """

    def __init__(
        self,
        size: int,
        latent_dim: int,
        grayscale: bool,
        mode: Mode,
        stride: int,
        score_residual: Residual,
        image_score: Reduction,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, get_args(Mode))
        check_choice("score_residual", score_residual, RESIDUALS)
        for name, value in (("latent_dim", latent_dim), ("stride", stride), ("patch_size", size)):
            check_count(name, value)
        self.autoencoder = Autoencoder(1 if grayscale else 3, size, latent_dim)
        self.image_score = ImageScore(image_score)
        self.size = size
        self.grayscale = grayscale
        self.mode = mode
        self.stride = stride
        self.score_residual = score_residual

    def check_size(self, height: int, width: int) -> None:
        """See :meth:`ImageModel.check_size`."""
        if self.mode == "textures":
            check_patches(height, width, self.size, self.stride)
        elif (height, width) != (self.size, self.size):
            msg = (
                f"image of {height}x{width} pixels: mode 'objects' takes {self.size}x{self.size}; "
                "use mode 'textures' for other sizes"
            )
            raise ValueError(msg)

    def to_channels(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(N, 3, H, W)`` in the autoencoder's channels, ``(N, C, H, W)``."""
        return rgb_to_grayscale(image) if self.grayscale else image

    def anomaly_map(self, image: torch.Tensor) -> torch.Tensor:
        """Residual ``(N, 1, H, W)`` of ``(N, C, H, W)`` in [0, 1] and its reconstruction."""

        def compare(patch: torch.Tensor) -> torch.Tensor:
            return RESIDUALS[self.score_residual](prepare_for(patch, self.score_residual), self.autoencoder(patch))

        if self.mode == "objects":
            return compare(image)
        _, _, h, w = image.shape
        return Windows(h, w, self.size, self.stride, image).average(image, compare)

    def infer(self, image: torch.Tensor) -> InferenceBatch:
        """See :meth:`ImageModel.infer`."""
        anomaly_map = self.anomaly_map(self.to_channels(image))
        return InferenceBatch(pred_score=self.image_score(anomaly_map), anomaly_map=anomaly_map)
