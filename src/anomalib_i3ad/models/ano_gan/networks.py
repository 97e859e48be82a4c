"""The DCGAN and f-AnoGAN's encoder (Radford et al., ICLR 2016; Schlegl et al., 2017 and 2019)."""

from itertools import pairwise

import torch
from torch import nn

from .linearisable import ConvLayer, LinearisableSequential, Pullback

SMALLEST = 4  # side in pixels at which the generator starts and the discriminator ends


def _widths(size: int, width: int) -> list[int]:
    """Channels after each halving of a side of ``size`` pixels, down to 4.

    Raises:
        ValueError: If halving does not end at 4.
    """
    halvings = (size // SMALLEST).bit_length() - 1
    if halvings < 1 or SMALLEST << halvings != size:
        msg = f"patch_size {size} must be 8, 16, 32, 64, 128 or a higher power of 2"
        raise ValueError(msg)
    return [width << level for level in range(halvings)]


def _initialise(network: nn.Module) -> None:
    """DCGAN's initial weights: normal, of standard deviation 0.02."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)


class Generator(LinearisableSequential):
    """Latent vectors to patches: 4x4, then transposed 5x5 convolutions of stride 2; BN, ReLU, tanh.

    Args:
        size: Side of a patch in pixels, a power of 2 from 8 on.
        width: Channels of the last hidden layer; the first has ``width * size / 8``.
        latent_dim: Length of the latent vector.
    """

    def __init__(self, size: int, width: int, latent_dim: int) -> None:
        widths = _widths(size, width)[::-1]
        layers = [ConvLayer(nn.ConvTranspose2d(latent_dim, widths[0], SMALLEST, bias=False), nn.LeakyReLU(0.0))]
        for level, (inner, outer) in enumerate(pairwise([*widths, 3]), start=1):
            last = level == len(widths)
            convolution = nn.ConvTranspose2d(inner, outer, 5, 2, padding=2, output_padding=1, bias=last)
            layers.append(ConvLayer(convolution, nn.Tanh() if last else nn.LeakyReLU(0.0), norm=not last))
        super().__init__(*layers)
        _initialise(self)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Draw patches ``(N, 3, size, size)`` in [-1, 1] from ``(N, latent_dim)``."""
        return super().forward(z[..., None, None])

    def linearise(self, x: torch.Tensor) -> tuple[torch.Tensor, Pullback]:
        """As :meth:`forward`, with the pullback to ``(N, latent_dim)``."""
        drawn, pullback = super().linearise(x[..., None, None])
        return drawn, lambda d: pullback(d)[..., 0, 0]


class Critic(nn.Module):
    """Patches to numbers: 5x5 convolutions of stride 2 down to 4x4, BN in all but the first, LeakyReLU 0.2.

    With one output it is the discriminator; with ``latent_dim`` outputs, the encoder before its tanh.

    Args:
        size: Side of a patch in pixels, a power of 2 from 8 on.
        width: Channels of the first layer, doubled by each of the others.
        outputs: Numbers per patch.
    """

    def __init__(self, size: int, width: int, outputs: int) -> None:
        super().__init__()
        layers = []
        for level, (inner, outer) in enumerate(pairwise([3, *_widths(size, width)])):
            convolution = nn.Conv2d(inner, outer, 5, 2, padding=2, bias=level == 0)
            layers.append(ConvLayer(convolution, nn.LeakyReLU(0.2), norm=level > 0))
        #: f, the inner layers: patches to ``(N, width * size / 8, 4, 4)``.
        self.features = LinearisableSequential(*layers)
        self.head = nn.Conv2d(outer, outputs, SMALLEST)
        _initialise(self)

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """Map patches ``(N, 3, size, size)`` in [-1, 1] to ``(N, outputs)``."""
        return self.head(self.features(patch)).flatten(1)
