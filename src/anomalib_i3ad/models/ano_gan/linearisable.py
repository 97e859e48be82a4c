"""Convolutional layers with a hand-written vector-Jacobian product.

What autograd computes cannot be exported; gradients by these layers can, so that an exported graph may hold a
gradient descent.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

#: Maps the gradient of a scalar by an output to its gradient by the input.
Pullback = Callable[[torch.Tensor], torch.Tensor]


class ConvLayer(nn.Module):
    """Convolution, batch normalisation unless left out, and activation.

    Args:
        convolution: The convolution, or transposed convolution, without dilation or groups.
        activation: ``nn.LeakyReLU`` (of slope 0 for ReLU) or ``nn.Tanh``.
        norm: Normalise between the two.
    """

    def __init__(
        self, convolution: nn.Conv2d | nn.ConvTranspose2d, activation: nn.LeakyReLU | nn.Tanh, *, norm: bool = True
    ) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels) if norm else None
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(N, C, H, W)`` to the convolution's output size."""
        x = self.convolution(x)
        return self.activation(x if self.norm is None else self.norm(x))

    def linearise(self, x: torch.Tensor) -> tuple[torch.Tensor, Pullback]:
        """Output and pullback at x, in evaluation mode."""
        y = self(x)
        if isinstance(self.activation, nn.LeakyReLU):
            above = (y > 0).to(y.dtype)
            gain = above + self.activation.negative_slope * (1 - above)
        else:
            gain = 1 - y.square()
        if self.norm is not None:
            assert self.norm.running_var is not None  # mypy
            gain = gain * (self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps))[:, None, None]
        layer = self.convolution
        padding = layer.padding
        assert not isinstance(padding, str)  # mypy
        if isinstance(layer, nn.ConvTranspose2d):
            return y, lambda d: F.conv2d(d * gain, layer.weight, None, layer.stride, padding)
        # rows and columns at the far edge that the stride left out
        left = [(x.shape[i - 2] + 2 * padding[i] - layer.kernel_size[i]) % layer.stride[i] for i in (0, 1)]
        return y, lambda d: F.conv_transpose2d(d * gain, layer.weight, None, layer.stride, padding, left)


class LinearisableSequential(nn.Sequential):
    """Layers in sequence; ``linearise`` composes their pullbacks."""

    def linearise(self, x: torch.Tensor) -> tuple[torch.Tensor, Pullback]:
        """Output and pullback at x, in evaluation mode."""
        pullbacks: list[Pullback] = []
        for layer in self:
            assert isinstance(layer, ConvLayer)  # mypy
            x, pullback = layer.linearise(x)
            pullbacks.append(pullback)

        def composed(d: torch.Tensor) -> torch.Tensor:
            for pullback in reversed(pullbacks):
                d = pullback(d)
            return d

        return x, composed
