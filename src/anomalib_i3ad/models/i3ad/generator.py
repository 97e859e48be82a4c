"""Inpainting generator: gated convolutions, optionally refined by contextual attention.

Source: Yu et al., Free-Form Image Inpainting with Gated Convolution, ICCV 2019, figure 3.
"""

import torch
from torch import nn

from anomalib_i3ad.components.arguments import check_count, check_range
from anomalib_i3ad.components.stitching import composite

from .contextual_attention import ContextualAttention
from .gated_conv import GatedConv2d

DILATIONS = (2, 4, 8, 16)


def _encoder(width: int) -> list[nn.Module]:
    """Layers from the 5 input channels at full size to ``4 * width`` channels at a quarter."""
    return [
        GatedConv2d(5, width, 5),
        GatedConv2d(width, 2 * width, stride=2),
        GatedConv2d(2 * width, 2 * width),
        GatedConv2d(2 * width, 4 * width, stride=2),
        GatedConv2d(4 * width, 4 * width),
        GatedConv2d(4 * width, 4 * width),
    ]


def _dilated(width: int) -> list[nn.Module]:
    return [GatedConv2d(4 * width, 4 * width, dilation=dilation) for dilation in DILATIONS]


def _decoder(width: int, in_channels: int) -> list[nn.Module]:
    """Layers from a quarter of the size back to a full-size image; the last one is plain."""
    return [
        GatedConv2d(in_channels, 4 * width),
        GatedConv2d(4 * width, 4 * width),
        GatedConv2d(4 * width, 2 * width, upsample=True),
        GatedConv2d(2 * width, 2 * width),
        GatedConv2d(2 * width, width, upsample=True),
        GatedConv2d(width, width // 2),
        nn.Conv2d(width // 2, 3, 3, padding=1),
    ]


class CoarseStage(nn.Sequential):
    """First stage: encoder, dilated convolutions, decoder."""

    def __init__(self, width: int) -> None:
        super().__init__(*_encoder(width), *_dilated(width), *_decoder(width, 4 * width))

    def forward(self, x: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Map the generator's input ``(N, 5, H, W)`` to an image ``(N, 3, H, W)`` in [-1, 1]."""
        return super().forward(x)


class RefinementStage(nn.Module):
    """Second stage: a dilated and a contextual-attention branch, decoded together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dilated = nn.Sequential(*_encoder(width), *_dilated(width))
        self.attention_encoder = nn.Sequential(*_encoder(width))
        self.attention = ContextualAttention()
        self.attention_tail = nn.Sequential(GatedConv2d(4 * width, 4 * width), GatedConv2d(4 * width, 4 * width))
        self.decoder = nn.Sequential(*_decoder(width, 8 * width))

    def forward(self, x: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        """Map the generator's input ``(N, 5, H, W)`` to an image ``(N, 3, H, W)`` in [-1, 1]."""
        attended = self.attention_tail(self.attention(self.attention_encoder(x), hole))
        return self.decoder(torch.cat([self.dilated(x), attended], dim=1))


class Generator(nn.Module):
    """Inpaint holes from what is visible around them.

    Args:
        width: Channels of the first layer, even; the authors' network has 24.
        stages: 1 for the coarse stage alone, 2 with refinement by contextual attention.

    Raises:
        ValueError: If ``width`` or ``stages`` is none of these.
    """

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        check_count("width", width, at_least=2)
        if width % 2:
            msg = f"width {width} must be an even number of channels"
            raise ValueError(msg)
        check_range("stages", stages, at_least=1, at_most=2, whole=True)
        self.stages = nn.ModuleList([CoarseStage(width), RefinementStage(width)][:stages])
        #: Image height and width must be multiples of this.
        self.size_divisor = 4 * stages

    def forward(self, image: torch.Tensor, hole: torch.Tensor) -> list[torch.Tensor]:
        """Inpaint; only the visible pixels of ``image`` are read.

        Args:
            image: ``(N, 3, H, W)`` in [0, 1].
            hole: ``(N, 1, H, W)`` in [0, 1]; values between hide partly.

        Returns:
            The image drawn by each stage, last one best, ``(N, 3, H, W)``, nominally in [0, 1].
        """
        drawn: list[torch.Tensor] = []
        ones = torch.ones_like(hole)
        filled = (2 * image - 1) * (1 - hole)
        for stage in self.stages:
            output = stage(torch.cat([filled, ones, hole], dim=1), hole)
            filled = composite(filled, output, hole)
            drawn.append((output + 1) / 2)
        return drawn
