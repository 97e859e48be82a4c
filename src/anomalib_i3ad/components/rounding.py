"""Weights rounded to what fewer bytes hold: an exported file keeps them in these, and changes no result."""

from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import nn

#: Share of a feature map that may change when weights are rounded; usually a hundredth of it does.
ROUNDING = 0.05


def column_steps(matrices: torch.Tensor) -> torch.Tensor:
    """Least powers of two ``(..., 1, columns)`` of which no value of a column is more than 127."""
    largest = matrices.abs().amax(dim=-2, keepdim=True)
    return torch.where(largest > 0, largest / 127, 1).log2().ceil().exp2()


def round_to_eight_bits(matrices: torch.Tensor) -> torch.Tensor:
    """Round each column of matrices ``(..., rows, columns)`` to -127 to 127 times its step."""
    step = column_steps(matrices)
    return (matrices / step).round() * step


@torch.no_grad()
def round_to_half(network: nn.Module) -> None:
    """Round all parameters to what half precision holds, so that a file can keep them in half the bytes."""
    for parameter in network.parameters():
        parameter.copy_(parameter.half())


@torch.no_grad()
def fold_normalisation(network: nn.Module, height: int, width: int) -> None:
    """Move what batch normalisation multiplies with into the convolution before it, and round that to half precision.

    Runtimes fold by themselves: what is rounded before would no longer be what half precision holds. A network in which
    something else uses the convolution's results, in an image of this size, stays as it is.
    """
    image = torch.linspace(-2, 2, 3 * height * width).reshape(1, 3, height, width).to(next(network.parameters()))
    before, unfolded = network(image), deepcopy(network.state_dict())
    layers: list[Any] = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    for convolution, norm in pairwise(layers):
        pair = isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if pair and convolution.out_channels == norm.num_features:
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            convolution.weight.mul_(factor[:, None, None, None])
            if convolution.bias is not None:
                convolution.bias.mul_(factor)
            norm.bias.sub_(norm.running_mean * factor)
            norm.weight.fill_(1)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
    round_to_half(network)
    pairs = zip(before, network(image), strict=True)
    if not all(torch.dist(one, other) <= ROUNDING * one.norm() for one, other in pairs):  # NaN is none of these
        network.load_state_dict(unfolded)
