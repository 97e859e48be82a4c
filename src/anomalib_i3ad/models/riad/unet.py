"""RIAD's U-Net."""

from itertools import pairwise

import torch
from torch import nn

LEVELS = (1, 2, 4, 8, 8)


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


class UNet(nn.Module):
    """Five levels down and up with skips: ``width`` * 1, 2, 4, 8, 8 channels; the authors' ``width`` is 64.

    Down: 4x4 convolution of stride 2, then 3x3; up mirrors it. Batch normalisation and ReLU after each but
    the last, which is plain. Source: Zavrtanik et al., Pattern Recognition 2021, and public code.

    Args:
        width: Channels of the first level.
    """

    #: Image sides must be multiples of this.
    size_divisor = 2 ** len(LEVELS)

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [3, *(factor * width for factor in LEVELS)]
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, (outer, inner) in enumerate(pairwise(channels)):
            self.down.append(
                nn.Sequential(
                    *_layer(nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)),
                    *_layer(nn.Conv2d(inner, inner, 3, padding=1, bias=False)),
                )
            )
            deepest = level == len(LEVELS) - 1
            joined = inner if deepest else 2 * inner
            enlarge = nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1, bias=level == 0)
            self.up.append(
                nn.Sequential(
                    *_layer(nn.Conv2d(joined, inner, 3, padding=1, bias=False)),
                    *(_layer(enlarge) if level else [enlarge]),
                )
            )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Redraw ``(N, 3, H, W)``, sides multiples of ``size_divisor``; the output is not clamped."""
        skips: list[torch.Tensor] = []
        x = image
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = self.up[-1](x)
        for up, skip in zip(reversed(self.up[:-1]), reversed(skips[:-1]), strict=True):
            x = up(torch.cat([x, skip], dim=1))
        return x
