"""SN-PatchGAN discriminator; used in training only and never exported."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

LAYERS = (1, 2, 4, 4, 4, 4)


class Discriminator(nn.Sequential):
    """Six spectrally normalised 5x5 stride-2 convolutions; every output element is a logit.

    Source: Yu et al., Free-Form Image Inpainting with Gated Convolution, ICCV 2019, section 3.3;
    spectral normalisation of Miyato et al., ICLR 2018, by power iteration on each weight.

    Args:
        width: Channels of the first layer; the authors' network has 64.
    """

    def __init__(self, width: int = 64) -> None:
        channels = [4, *(factor * width for factor in LAYERS)]
        layers: list[nn.Module] = []
        for in_channels, out_channels in pairwise(channels):
            conv = nn.Conv2d(in_channels, out_channels, kernel_size=5, stride=2, padding=2)
            layers += [spectral_norm(conv), nn.LeakyReLU(0.2)]
        super().__init__(*layers[:-1])

    def forward(self, image: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """Judge composites ``(N, 3, H, W)`` in [0, 1] with their holes ``(N, 1, H, W)``.

        Returns:
            Logits ``(N, 4 * width, H / 64, W / 64)``, sides rounded up.
        """
        return super().forward(torch.cat([2 * image - 1, hole], dim=1))
