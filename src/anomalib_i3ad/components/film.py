"""What an iteration did, pass by pass."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch


class Frame(NamedTuple):
    """One pass over one image: ``hole`` and ``residual`` (1, 1, H, W), ``inpainting`` (1, 3, H, W).

    The first pass hides every pixel once, in parts; its hole is the first of them.
    """

    hole: torch.Tensor
    inpainting: torch.Tensor
    residual: torch.Tensor


def maps_by_pass(frames: Sequence[Frame], limit: int, anomaly_map: Literal["last", "mean"]) -> torch.Tensor:
    """Anomaly maps ``(1 + limit, 1, H, W)`` of an image, as if at most 0, 1, ... ``limit`` passes followed the first.

    An image that stopped keeps its last residual.
    """
    residual = torch.cat([frame.residual for frame in frames])
    residual = torch.cat([residual, residual[-1:].expand(1 + limit - len(residual), -1, -1, -1)])
    if anomaly_map == "last":
        return residual
    return residual.cumsum(dim=0) / torch.arange(1, 2 + limit, device=residual.device)[:, None, None, None]
