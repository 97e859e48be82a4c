"""FeatureI3AD's networks: what inpaints features, and what draws them."""

import torch
from torch import nn
from torch.nn import functional as F

SLOPE = 0.1
DILATIONS = (1, 2, 4, 1)
#: Pixels of a drawing along each side of a cell.
DRAWN_PER_CELL = 4


def _convolution(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation)
    nn.init.kaiming_normal_(convolution.weight, SLOPE, nonlinearity="leaky_relu")
    return nn.Sequential(convolution, nn.LeakyReLU(SLOPE))


class Inpainter(nn.Module):
    """Small U-shaped network that predicts the features of hidden cells, and the size of its own error.

    Args:
        channels: Features of a cell.
        residuals: Numbers by which the size of a cell's residual is predicted.
        width: Channels of its first layer.
    """

    #: Height and width in cells must be multiples of this.
    size_divisor = 2

    def __init__(self, channels: int, residuals: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 1)
        #: What stands in the place of a hidden cell.
        self.hidden = nn.Parameter(torch.zeros(width, 1, 1))
        self.fine = _convolution(width, width)
        self.down = _convolution(width, 2 * width, stride=2)
        self.coarse = nn.ModuleList([_convolution(2 * width, 2 * width, dilation=dilation) for dilation in DILATIONS])
        # the two that meet are mixed cell by cell first: less than half the products
        self.up = nn.Sequential(nn.Conv2d(3 * width, width, 1), _convolution(width, width))
        self.head = nn.Conv2d(width, channels + residuals, 1)
        self.channels = channels

    def forward(self, features: torch.Tensor, hole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inpaint; only what is visible of the features is read.

        Args:
            features: ``(N, channels, h, w)``, standardised.
            hole: ``(N, 1, h, w)`` in [0, 1]; values between hide partly.

        Returns:
            Features ``(N, channels, h, w)`` and the expected size of residuals ``(N, residuals, h, w)``, positive.
        """
        return self.decode(self.fill(self.encode(features), hole))

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Map features ``(N, channels, h, w)`` to ``(N, width, h, w)``, each cell alone."""
        encoded: torch.Tensor = self.stem(features)
        return encoded

    def fill(self, encoded: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """Fill the hole ``(N, 1, h, w)`` from what is visible of :meth:`encode`'s ``(N, width, h, w)``."""
        fine = self.fine(encoded * (1 - hole) + self.hidden * hole)
        coarse = self.down(fine)
        for layer in self.coarse:
            coarse = coarse + layer(coarse)
        filled: torch.Tensor = self.up(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], dim=1))
        return filled

    def decode(self, filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map what :meth:`fill` made to the results of :meth:`forward`, each cell alone."""
        drawn, expected = self.head(filled).tensor_split([self.channels], dim=1)
        return drawn, F.softplus(expected)


class Decoder(nn.Sequential):
    """Draws the image that features came from; for people to look at, and no part of a score.

    Args:
        channels: Features of a cell.
        width: Channels of its first layer.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 1),
            nn.LeakyReLU(SLOPE),
            _convolution(width, width),
            nn.Upsample(scale_factor=2.0),
            _convolution(width, width // 2),
            nn.Conv2d(width // 2, 3 * (DRAWN_PER_CELL // 2) ** 2, 3, padding=1),
            nn.PixelShuffle(DRAWN_PER_CELL // 2),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map standardised features ``(N, channels, h, w)`` to pictures ``(N, 3, 4 h, 4 w)``, nominally in [0, 1]."""
        return super().forward(features)
