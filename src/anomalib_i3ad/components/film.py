"""What an iteration did, pass by pass."""

from typing import NamedTuple

import torch


class Frame(NamedTuple):
    """One pass over one image.

    ``hole`` (1, 1, h, w) of the scene, ``inpainting`` (1, 3, H, W), ``residual`` (1, 1, H, W).
    The first pass hides every pixel once, in parts; its hole is the first of them.
    """

    hole: torch.Tensor
    inpainting: torch.Tensor
    residual: torch.Tensor
